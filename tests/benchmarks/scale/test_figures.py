from pathlib import Path
from typing import Any

import pytest

from benchmarks.flops import forward_flops, step_flops
from benchmarks.gpu_stages import FEATURES, READER, step_name
from benchmarks.scale.figures import NOT_MEASURED, PAPER_SPEED, read_figures
from benchmarks.scale.options import AssumedSettings
from pipeline.settings import UserError
from tests.benchmarks.scale.results import write_results
from training.model import TCoReSettings
from training.vit import VitSettings


def gpu_result(name: str, status: str = "done", **figures: float) -> dict[str, Any]:
    return {"name": name, "status": status, "figures": figures}


def test_figures_of_the_files_by_hand(tmp_path: Path) -> None:
    figures = read_figures(write_results(tmp_path), AssumedSettings())
    assert figures.clip_core_seconds.value == pytest.approx(2 * 20 / 100)  # two workers, the median round
    assert figures.image_core_seconds.value == pytest.approx(2 * 4 / 1000)
    assert (figures.clip_jpeg_bytes.value, figures.clip_frame_bytes.value) == (1000, 1100)
    assert (figures.image_jpeg_bytes.value, figures.image_bytes.value) == (9000, 9500)
    assert (figures.clip_index_bytes.value, figures.image_index_bytes.value) == (50, 7)
    assert figures.search_pairs.value == pytest.approx(1000 / 50e-6 / 4)
    assert figures.propagation_core_seconds.value == pytest.approx(0.6)
    assert figures.boundary_core_seconds.value == pytest.approx(0.002)  # one thread
    assert figures.forward_flops.value == pytest.approx(forward_flops(VitSettings(), 32, 48) / (0.5 * 2))
    assert figures.listing == ((1000, 1, 100), (101000, 11, 150))
    assert figures.clip_core_seconds.source == "shards.json"


def test_what_is_not_measured_is_assumed_and_says_so(tmp_path: Path) -> None:
    figures = read_figures(write_results(tmp_path), AssumedSettings(gpu_tflops=100, reader_samples=7))
    assert figures.reader_samples.value == 7
    small = step_flops(TCoReSettings(backbone=VitSettings(architecture="small")), 1)
    assert figures.small_samples.value == pytest.approx(100e12 / small, rel=1e-6)
    assert figures.base_samples.value < figures.small_samples.value
    for figure in (figures.reader_samples, figures.small_samples, figures.base_samples):
        assert figure.source.startswith(f"{NOT_MEASURED}: --assumed.")
    assert figures.small_memory_gb is figures.gpu_reader_samples is figures.gpu_feature_images is None


def test_measurements_replace_assumptions(tmp_path: Path) -> None:
    stages = [
        gpu_result(step_name("small", 64, True), seconds=0.05, peak_gb=9.0),
        gpu_result(step_name("small", 256, True), seconds=0.128, peak_gb=30.0),
        gpu_result(READER, samples_per_second=3000.0),
        gpu_result(FEATURES, images_per_second=5000.0),
    ]
    folder = write_results(tmp_path, gpu={"stages": stages}, reader={"samples_per_core_second": 44.0})
    figures = read_figures(folder, AssumedSettings())
    assert (figures.reader_samples.value, figures.reader_samples.source) == (44, "reader.json")
    assert figures.small_samples.value == pytest.approx(2000)  # of the larger batch
    assert figures.small_memory_gb is not None
    assert figures.small_memory_gb.value == 30
    assert figures.gpu_reader_samples is not None
    assert (figures.gpu_reader_samples.value, figures.gpu_reader_samples.source) == (3000, "gpu.json")
    assert figures.gpu_feature_images is not None
    assert figures.gpu_feature_images.value == 5000
    assert NOT_MEASURED in figures.base_samples.source


def test_a_stage_that_failed_is_not_measured(tmp_path: Path) -> None:
    stages = [gpu_result(READER, status="failed", samples_per_second=1.0)]
    figures = read_figures(write_results(tmp_path, gpu={"stages": stages}), AssumedSettings())
    assert figures.gpu_reader_samples is None


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"knn": None}, r"knn\.json has no rows: write it with `make bench-knn`"),
        ({"sizes": {"clips": {}}}, r"sizes\.json has no clips / samples: write it with `make bench-sizes`"),
    ],
)
def test_a_file_that_must_be_there_is_named_with_its_command(
    tmp_path: Path, others: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_figures(write_results(tmp_path, **others), AssumedSettings())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (write_results(tmp_path) / "shards.json").write_text("{")
    with pytest.raises(UserError, match=r"shards\.json is no JSON .*`make bench-shards`"):
        read_figures(tmp_path, AssumedSettings())


def test_speed_of_the_paper() -> None:
    assert pytest.approx(111.0, abs=0.05) == PAPER_SPEED  # 47,957,800 clips in 432,000 GPU-seconds
