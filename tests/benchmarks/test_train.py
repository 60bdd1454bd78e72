import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reference_step import ReferenceTCoRe
from benchmarks.train import TrainBenchmark, main, measure, projected_hours, random_batch
from pipeline.sampling.views import ViewSettings
from pipeline.settings import UserError
from tests.training.recorded import TINY_MODEL, recorded_model, recorded_values, recorded_views


def test_our_step_and_the_reference_step_compute_the_same() -> None:
    ours, reference = recorded_model(), ReferenceTCoRe(TINY_MODEL)
    reference.load_state_dict(ours.state_dict())
    for model in (ours, reference):
        model(recorded_views(), recorded_values().teacher_temperature).losses["total"].backward()
        model.apply_center_update()
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.cls_center.center, reference.cls_center.center)


def test_the_random_batch_has_real_shapes_and_half_of_its_crops_masked() -> None:
    batch = random_batch(4, ViewSettings(), "cpu")
    assert batch.global_crops.shape == (8, 3, 224, 224)
    assert batch.local_crops.shape == (32, 3, 96, 96)
    assert [tuple(frame.shape) for frame in batch.auxiliary] == [(8, 3, 224, 224)] * 2
    assert batch.masks.any(dim=1).sum() == 4


def test_hours_of_the_papers_run() -> None:
    assert projected_hours("base", 128, 0.288) == pytest.approx(29.97, abs=0.01)


def small(out: Path, **options: Any) -> TrainBenchmark:
    return TrainBenchmark(out=out, architecture="tiny", batch_size=1, prototypes=64, rounds=1, steps=1, **options)


def test_a_comparison_writes_its_ratios(tmp_path: Path) -> None:
    main(small(tmp_path / "train.json", compare=True))
    figures = json.loads((tmp_path / "train.json").read_text())
    assert figures["time_ratio"] == pytest.approx(figures["seconds"]["ours"] / figures["seconds"]["reference"])
    assert 0 < figures["memory_ratio"] < 2


def test_without_comparison_our_step_alone_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(small(tmp_path / "step.json"))
    figures = json.loads((tmp_path / "step.json").read_text())
    assert figures["seconds"] > 0
    assert "reference" not in capsys.readouterr().out
    assert "mfu" not in figures, "no peak is known for a CPU"
    assert "projected_hours" not in figures, "the paper trained no such model"


def test_a_missing_gpu_is_a_user_error(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="device = cuda, but torch finds no NVIDIA GPU"):
        main(small(tmp_path / "step.json", device="cuda"))


@pytest.mark.gpu
def test_a_bf16_step_with_compiled_blocks_runs_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    command = small(tmp_path / "step.json", device="cuda", precision="bf16", compile=True, recompute="selective")
    assert 0 < measure(command)["peak_gb"] < 20
