from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.recorded import TINY_VIT
from training.backbone.vit import VisionTransformer
from training.recompute import Recompute, recompute_activations

MODES: tuple[Recompute, ...] = ("none", "selective", "full")


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that are really executed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def step(mode: Recompute) -> tuple[list[Tensor], Counter[str]]:
    """Gradients of a step, and how often each operation ran."""
    torch.manual_seed(0)
    backbone = VisionTransformer(TINY_VIT.model_copy(update={"drop_path": 0.3})).train()
    names = list(backbone.state_dict())
    recompute_activations(backbone.blocks, mode)
    assert list(backbone.state_dict()) == names
    with Counted() as counted:
        backbone(torch.randn(4, 3, 64, 64)).patches.square().sum().backward()
    return [p.grad for p in backbone.parameters() if p.grad is not None], counted.counts


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputed_activations_give_the_same_bits(mode: Recompute) -> None:
    for result, expected in zip(step(mode)[0], step("none")[0], strict=True):
        assert torch.equal(result, expected)


def test_weights_that_two_passes_cast_to_bfloat16_are_recomputed_too() -> None:
    gradients = []
    for mode in MODES:
        torch.manual_seed(0)
        backbone = VisionTransformer(TINY_VIT)
        recompute_activations(backbone.blocks, mode)
        with torch.autocast("cpu", torch.bfloat16):
            first, second = (backbone(torch.randn(2, 3, side, side)).patches.float() for side in (64, 32))
        (first.square().sum() + second.square().sum()).backward()
        gradients.append(backbone.blocks[0].get_parameter("attn.qkv.weight").grad)
    expected, selective, full = gradients
    assert expected is not None
    assert full is not None
    assert torch.equal(full, expected)
    torch.testing.assert_close(selective, expected, rtol=0.05, atol=0.01 * expected.abs().max().item())


def test_selective_recomputes_cheap_operations_and_full_everything() -> None:
    counts = {mode: step(mode)[1] for mode in MODES}
    linear = 4 * TINY_VIT.depth
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    assert {mode: count["addmm"] for mode, count in counts.items()} == {
        "none": linear,
        "selective": linear,
        "full": 2 * linear,
    }
    for operation in ("gelu", attention):
        assert counts["none"][operation] == TINY_VIT.depth
    assert counts["selective"]["gelu"] == counts["full"]["gelu"] == 2 * TINY_VIT.depth
    assert (counts["selective"][attention], counts["full"][attention]) == (TINY_VIT.depth, 2 * TINY_VIT.depth)


def test_nothing_is_kept_for_a_pass_without_gradients() -> None:
    backbone = VisionTransformer(TINY_VIT)
    recompute_activations(backbone.blocks, "selective")
    with torch.no_grad(), Counted() as counted:
        backbone(torch.zeros(1, 3, 32, 32))
    assert counted.counts["addmm"] == 4 * TINY_VIT.depth
