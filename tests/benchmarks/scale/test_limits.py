from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale.figures import Figure, read_figures
from benchmarks.scale.limits import (
    ModelSize,
    Point,
    Resource,
    Run,
    all_reduce_bytes,
    fastest,
    first_over,
    gpu_rate,
    hours,
    lasting,
    model_size,
    page_bytes,
    paper_runs,
    points,
    shares,
)
from benchmarks.scale.options import AssumedSettings, ClusterSettings, DataSettings
from tests.benchmarks.scale.results import write_results
from training.checkpoint import save_checkpoint
from training.model import TCoRe, TCoReSettings

CLUSTER = ClusterSettings(
    nodes=4, gpus=32, cores=100, memory_gb=1.0, network_gb=1.0, storage_gb=2.0, storage_requests=3000
)
"""8 GPUs and 25 cores a machine."""
RUN = Run(
    title="made up",
    times=1,
    samples=1000,
    epochs=36,
    batch=64,
    size=ModelSize(trained=10_000_000, checkpoint=1),
    rate=100.0,
    frames=2.5,
    frame_bytes=16_160.0,  # 20,000 in whole pages
    dataset_bytes=5e8,
)


def test_shares_by_hand() -> None:
    found = shares(RUN, Point(16, 4.0), CLUSTER, core_rate=40.0)
    assert found[Resource.CORES] == pytest.approx(8 * 100 / 40 / 25)
    assert found[Resource.NETWORK] == pytest.approx(4e7 / 1e9 / (4 / 100))  # two machines send 40 MB a step of 40 ms
    assert found[Resource.BYTES] == pytest.approx(1600 * 2.5 * 20_000 / 2e9)
    assert found[Resource.REQUESTS] == pytest.approx(1600 * 2.5 / 3000)
    assert found[Resource.STORE] == pytest.approx(2 * 5e8 / (1000 / 1600) / 2e9)  # 1 GB every 0.625 s


def test_the_store_is_no_faster_than_the_networks_of_the_machines() -> None:
    found = shares(RUN, Point(8, 4.0), CLUSTER, core_rate=40.0)
    assert found[Resource.STORE] == pytest.approx(5e8 / (1000 / 800) / 1e9)


def test_all_reduce_by_counting_a_ring() -> None:
    nodes, parameters = 5, 1_000_000
    piece = 4 * parameters / nodes
    sent = sum(piece for _ in range(nodes - 1)) + sum(piece for _ in range(nodes - 1))  # reduce-scatter, then gather
    assert all_reduce_bytes(nodes, parameters) == pytest.approx(sent)
    assert all_reduce_bytes(1, parameters) == 0


def test_page_bytes_by_trying_all_places_in_a_page() -> None:
    pages = [-(-(start + size) // 4096) for start, size in product(range(0, 4096, 512), range(8193, 12_289))]
    mean_size = (8193 + 12_288) / 2
    assert page_bytes(mean_size) == pytest.approx(4096 * sum(pages) / len(pages), abs=1)


def test_first_over_by_hand() -> None:
    assert first_over(RUN, Resource.CORES, CLUSTER, 10.0, 64) == 3  # 10 cores a GPU, 25 a machine
    assert first_over(RUN, Resource.CORES, CLUSTER, 100.0, 64) is None
    assert first_over(RUN, Resource.REQUESTS, CLUSTER, 10.0, 64) == 16  # 250 reads/s a GPU; machines are whole
    assert first_over(RUN, Resource.NETWORK, CLUSTER, 10.0, 64) is None
    assert first_over(RUN, Resource.NETWORK, CLUSTER, 10.0, 4) == 24  # 53 ms in a step of 40 ms


def test_points_are_whole_machines_with_two_clips_a_gpu() -> None:
    assert [point.gpus for point in points(RUN, CLUSTER, None)] == [1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32]
    assert all(point.gpus * point.clips == pytest.approx(64) for point in points(RUN, CLUSTER, None))
    assert [point.gpus for point in points(RUN, CLUSTER, 7)][-2:] == [1016, 1024]


def test_hours_by_hand() -> None:
    free = ClusterSettings(nodes=4, gpus=32, cores=32_000)
    assert hours(RUN, Point(1, 64), free, 40.0, on_cpu=True) == pytest.approx(0.1)  # 36,000 samples, 100 a second
    assert hours(RUN, Point(2, 32), free, 40.0, on_cpu=True) == pytest.approx(0.05)
    cores_short = hours(RUN, Point(8, 8), CLUSTER, 10.0, on_cpu=True)
    assert cores_short == pytest.approx(36_000 / 250 / 3600)  # 25 cores of 10 samples/s
    assert hours(RUN, Point(8, 8), CLUSTER, 10.0, on_cpu=False) == pytest.approx(36_000 / 800 / 3600)


def test_storage_counts_where_memory_does_not_hold_the_data() -> None:
    small = CLUSTER.model_copy(update={"memory_gb": 0.4})
    assert lasting(RUN, CLUSTER, on_cpu=False) == [Resource.NETWORK]
    assert lasting(RUN, small, on_cpu=True) == [Resource.CORES, Resource.NETWORK, Resource.BYTES, Resource.REQUESTS]
    held, read = (hours(RUN, Point(16, 64), cluster, 40.0, on_cpu=False) for cluster in (CLUSTER, small))
    assert read == pytest.approx(held * 1600 * 2.5 / 3000)


@given(st.integers(1, 128), st.integers(2, 256))
def test_more_of_everything_never_takes_longer(nodes: int, clips: int) -> None:
    point = Point(min(nodes * 8, 1024), clips)
    better = CLUSTER.model_copy(update={"network_gb": 2.0, "cores": 200, "storage_requests": 6000.0})
    for on_cpu in (False, True):
        assert hours(RUN, point, better, 10.0, on_cpu) <= hours(RUN, point, CLUSTER, 10.0, on_cpu)


def test_fastest_is_where_gradients_take_as_long_as_compute() -> None:
    # one machine: 45 s; two: 40 ms of gradients in steps of 4 clips, 40 ms: no loss; three: 53 ms in steps of 27 ms
    point, taken = fastest(RUN, CLUSTER, 10.0)
    assert point == Point(16, 4.0)
    assert taken == pytest.approx(36_000 / 1600 / 3600)


def test_decoding_and_training_share_a_gpu(tmp_path: Path) -> None:
    figures = read_figures(write_results(tmp_path), AssumedSettings())
    assert gpu_rate(100.0, figures) == 100
    measured = figures._replace(gpu_reader_samples=Figure("", 300.0, "gpu.json"))
    assert gpu_rate(100.0, measured) == pytest.approx(75)  # 10 ms and 3.3 ms a sample


def test_the_papers_runs(tmp_path: Path) -> None:
    figures = read_figures(write_results(tmp_path), AssumedSettings())
    runs = paper_runs(DataSettings(clips=5, images=7), figures)
    assert [(run.samples, run.epochs, run.batch) for run in runs] == [(5, 400, 256), (5, 200, 128), (7, 100, 256)]
    assert [run.times for run in runs] == [1, 1, 2]
    assert [run.frames for run in runs] == [2.5, 2.5, 1.75]
    assert runs[0].read_bytes == pytest.approx(400 * 5 * 2.5 * (1000 + 3840))


def test_checkpoint_size_is_that_of_a_real_one(tmp_path: Path) -> None:
    settings = TCoReSettings.model_validate(
        {"backbone": {"architecture": "tiny"}, "head": {"hidden": 256, "prototypes": 256}}
    )
    model = TCoRe(settings)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    folder = save_checkpoint(tmp_path, 1, model, optimiser, {}, keep=1)
    written = sum(file.stat().st_size for file in folder.iterdir())
    size = model_size(settings)
    assert size.checkpoint == pytest.approx(written, rel=0.01)
    assert size.state == size.checkpoint + 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
