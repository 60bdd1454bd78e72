import pytest
import torch

from tests.training.recorded import assert_near, recorded, recorded_model
from training.pmm import PatchMatching, PmmSettings


@pytest.mark.parametrize("frame", ["past", "future"])
def test_output_and_attention_are_the_recorded_ones(frame: str) -> None:
    step = recorded("train_step")
    pmm = recorded_model().pmm
    assert pmm is not None
    current, other = step["out/student/global/patch"], step[f"out/student/{frame}/patch"]
    assert_near(pmm(current, other), step[f"out/pmm/{frame}/out"], 1e-5)
    (maps,) = pmm.attention_maps(current, other)
    assert_near(maps.cross, step[f"out/pmm/{frame}/cross_attn"], 1e-5)
    assert_near(maps.self_, step[f"out/pmm/{frame}/self_attn"], 1e-5)


def test_stacked_modules_feed_one_another() -> None:
    stack = PatchMatching(32, PmmSettings(modules=3))
    single = PatchMatching(32, PmmSettings(modules=1))
    current, other = torch.randn(2, 9, 32), torch.randn(2, 4, 32)
    expected = current
    for layer in stack.layers:
        single.layers[0].load_state_dict(layer.state_dict())
        expected = single(expected, other)
    torch.testing.assert_close(stack(current, other), expected)
    maps = stack.attention_maps(current, other)
    assert [(m.cross.shape, m.self_.shape) for m in maps] == [((2, 9, 4), (2, 9, 9))] * 3
    torch.testing.assert_close(maps[2].cross.sum(-1), torch.ones(2, 9))


def test_the_factor_scales_the_cross_attention_only() -> None:
    module = PatchMatching(32, PmmSettings(cross_attention_factor=0.0))
    current = torch.randn(2, 9, 32)
    assert torch.equal(module(current, torch.randn(2, 9, 32)), module(current, torch.randn(2, 9, 32)))
