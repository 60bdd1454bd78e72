import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale.figures import Figures, read_figures
from benchmarks.scale.options import AssumedSettings, ClusterSettings, DataSettings
from benchmarks.scale.stages import (
    SEARCH_BLOCK,
    SEARCH_CORES,
    build_stages,
    clip_bytes,
    image_bytes,
    job_limit,
    makespan,
    plan_cost,
    search_core_hours,
    shard_count,
    shards_stage,
)
from indexing.job import SearchSettings
from tests.benchmarks.scale.results import write_results

LISTING = ((1000.0, 1.0, 100.0), (101_000.0, 11.0, 150.0), (1_001_000.0, 191.0, 240.0))


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    return read_figures(write_results(tmp_path), AssumedSettings())


@pytest.mark.parametrize(
    ("inputs", "seconds", "megabytes"),
    [(1000, 1, 100), (51_000, 6, 125), (101_000, 11, 150), (551_000, 101, 195), (1_901_000, 371, 330), (0, 0.9, 99.5)],
)
def test_plan_cost_follows_the_lines_through_the_measured_lists(inputs: int, seconds: float, megabytes: float) -> None:
    assert plan_cost(LISTING, inputs) == pytest.approx((seconds, 1e6 * megabytes))


def test_makespan_counts_whole_rounds() -> None:
    assert makespan(938, 74.0, 512) == 148
    assert makespan(938, 74.0, 938) == makespan(938, 74.0, 5000) == 74
    assert makespan(10, 3.0, 1) == 30


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_makespan_is_between_no_waste_and_one_round_more(tasks: int, workers: int) -> None:
    assert tasks / workers <= makespan(tasks, 1.0, workers) < tasks / workers + 1


def test_shards_of_the_real_sizes() -> None:
    assert shard_count("clips", 240_000) == math.ceil(240_000 / 256)
    assert shard_count("images", 1_300_000) == math.ceil(1_300_000 / 1024)


def test_shard_job_by_hand() -> None:
    cluster = ClusterSettings(nodes=1, gpus=1, cores=100, storage_gb=1.0)
    stage = shards_stage("x", "clips", 25_600, 0.5, 3e9, 2e9, LISTING, cluster)
    listed = plan_cost(LISTING, 25_600)[0]
    assert stage.core_hours == pytest.approx((25_600 * 0.5 + listed) / 3600)
    assert stage.hours == pytest.approx((256 * 0.5 + listed) / 3600)  # 100 shards on 100 cores
    assert stage.files == 204
    slow = shards_stage("x", "clips", 25_600, 0.5, 3e12, 2e12, LISTING, cluster)
    assert slow.hours == pytest.approx((5000 + listed) / 3600)  # 5 TB at 1 GB/s
    assert stage.bandwidth == pytest.approx(5e9 / (128 + listed))


def test_what_limits_the_shard_job() -> None:
    cluster = ClusterSettings(storage_gb=10.0)
    assert job_limit(938, 0.3, 1e6, cluster) == (
        938,
        "one works on each of the 938 shards (`--samples_per_shard` makes more)",
    )
    assert job_limit(1270, 0.001, 2e5, cluster)[0] == 50  # 10 GB/s over 200 MB/s of a core


def test_bytes_by_hand(figures: Figures) -> None:
    data = DataSettings(clips=3, frames=20, images=2)
    assert clip_bytes(data, figures) == 3 * (20 * 1100 + 50)
    assert image_bytes(data, figures) == 2 * (9500 + 7)


def test_twice_the_data_is_twice_the_bytes_and_four_times_the_search(figures: Figures) -> None:
    once, twice = (DataSettings(clips=n * 10_240, images=n * 81_920) for n in (1, 2))
    assert clip_bytes(twice, figures) == 2 * clip_bytes(once, figures)
    assert image_bytes(twice, figures) == 2 * image_bytes(once, figures)
    before, after = (
        {stage.name: stage for stage in build_stages(data, figures, ClusterSettings(), 1e14)} for data in (once, twice)
    )
    for name in ("shards of clips", "shards of images"):
        assert (after[name].read, after[name].written) == (2 * before[name].read, 2 * before[name].written)
        assert after[name].core_hours > 1.9 * before[name].core_hours
    assert after["features of images, ViT-S"].gpu_hours == pytest.approx(
        2 * before["features of images, ViT-S"].gpu_hours
    )
    assert after["exact search"].core_hours == pytest.approx(4 * before["exact search"].core_hours)
    assert after["exact search"].memory == pytest.approx(2 * 4 * 384 * 81_920)


def test_search_hours_are_those_of_the_benchmark() -> None:
    result = json.loads(Path("benchmarks/results/knn.json").read_text())
    figures = read_figures(Path("benchmarks/results"), AssumedSettings())
    ours = search_core_hours(1_281_167, figures.search_pairs.value)
    assert ours == pytest.approx(result["imagenet_core_hours"])


def test_search_is_cut_as_its_defaults_say() -> None:
    settings = SearchSettings()
    assert (settings.block, settings.threads) == (SEARCH_BLOCK, SEARCH_CORES)
