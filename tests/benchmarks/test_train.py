import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import PlainTCoRe
from benchmarks.train import Case, TrainBenchmark, main, measure, projected_hours, random_batch, step_flops
from pipeline.reader.views import ViewSettings
from tests.training.recorded import TINY_MODEL, recorded_model, recorded_values, recorded_views
from training.head import HeadSettings
from training.model import TCoRe, TCoReSettings
from training.pmm import PmmSettings
from training.vit import VitSettings


def test_plain_and_lean_step_compute_the_same() -> None:
    lean, plain = recorded_model(), PlainTCoRe(TINY_MODEL)
    plain.load_state_dict(lean.state_dict())
    for model in (lean, plain):
        model(recorded_views(), recorded_values().teacher_temperature).terms["total"].backward()
        model.apply_centre_update()
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(lean.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(lean.dino_loss.center, plain.dino_loss.center)


def test_the_random_batch_has_real_shapes_and_half_of_its_crops_masked() -> None:
    batch = random_batch(4, ViewSettings(), "cpu")
    assert batch.global_crops.shape == (8, 3, 224, 224)
    assert batch.local_crops.shape == (32, 3, 96, 96)
    assert [tuple(frame.shape) for frame in batch.auxiliary] == [(8, 3, 224, 224)] * 2
    assert batch.masks.any(dim=1).sum() == 4


def test_flops_of_a_step_are_those_that_torch_counts() -> None:
    backbone = VitSettings(width=64, depth=2, heads=2, drop_path=0)
    settings = TCoReSettings(backbone=backbone, head=HeadSettings(hidden=64, prototypes=1024), pmm=PmmSettings(heads=2))
    model, batch = TCoRe(settings), random_batch(2, ViewSettings(), "cpu")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch, 0.05).terms["total"].backward()
    share = batch.masks.float().mean().item()
    uncounted = 2 * 256 * 1024 * (4 + 16 + 2 * 4 * 196 * share)  # sums in place: the gradient of the prototypes
    assert counter.get_total_flops() == pytest.approx(step_flops(settings, 2, share) - uncounted, rel=0.01)


def test_hours_of_the_papers_run() -> None:
    assert projected_hours("base", 128, 0.288) == pytest.approx(29.97, abs=0.01)


def test_a_small_measurement_writes_its_ratios(tmp_path: Path) -> None:
    main(
        TrainBenchmark(out=tmp_path / "train.json", architecture="tiny", batch_size=1, prototypes=64, rounds=1, steps=1)
    )
    figures = json.loads((tmp_path / "train.json").read_text())
    assert figures["time_ratio"] == pytest.approx(figures["seconds"]["lean"] / figures["seconds"]["plain"])
    assert 0 < figures["memory_ratio"] < 2


@pytest.mark.gpu
def test_a_bf16_step_with_compiled_blocks_runs_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    settings = TCoReSettings(backbone=VitSettings(architecture="tiny"))
    measured = measure(Case("lean", settings, 8, 2, "cuda", "bf16", True))
    assert 0 < measured["peak_gb"] < 20
