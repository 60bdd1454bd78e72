import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import peak_flops, step_flops, utilization
from benchmarks.train import random_batch
from pipeline.sampling.views import ViewSettings
from training.backbone.vit import VitSettings
from training.head import HeadSettings
from training.model import TCoRe, TCoReSettings
from training.pmm import PmmSettings

NARROW = TCoReSettings(
    backbone=VitSettings(width=64, depth=2, heads=2, drop_path=0),
    head=HeadSettings(hidden=64, prototypes=1024),
    pmm=PmmSettings(heads=2, modules=2),
)
VIT_S = TCoReSettings(backbone=VitSettings(architecture="small", drop_path=0))


def test_flops_of_a_step_are_those_that_torch_counts() -> None:
    model, batch = TCoRe(NARROW), random_batch(2, ViewSettings(), "cpu")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch, 0.05).losses["total"].backward()
    share = batch.masks.float().mean().item()
    assert counter.get_total_flops() == pytest.approx(step_flops(NARROW, 2, share), rel=0.01)


def test_flops_grow_with_the_batch_alone() -> None:
    assert step_flops(VIT_S, 64) == pytest.approx(64 * step_flops(VIT_S, 1))


@pytest.mark.parametrize(
    ("device", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
    ],
)
def test_peaks_are_those_of_the_data_sheets(device: str, teraflops: float) -> None:
    assert peak_flops(device) == teraflops * 1e12


@pytest.mark.parametrize("device", ["NVIDIA H200 MIG 1g.18gb", "NVIDIA GeForce GTX 1080", "cpu"])
def test_no_peak_is_guessed(device: str) -> None:
    assert peak_flops(device) is None


def test_utilization_is_a_share_of_the_peak() -> None:
    at_the_peak = step_flops(VIT_S, 64) / 989e12
    assert utilization(VIT_S, 64, 2 * at_the_peak, "NVIDIA H200") == pytest.approx(0.5)
    assert utilization(VIT_S, 64, 1.0, "NVIDIA H200 MIG 1g.18gb") is None
