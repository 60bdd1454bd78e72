import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.lean_linear import norm_linear, scaled_linear


def parts(dtype: torch.dtype) -> tuple[Tensor, nn.LayerNorm, nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(6).to(dtype), nn.Linear(6, 4).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    draw = (torch.randn(*shape, dtype=dtype) for shape in ((2, 3, 6), (4,), (2, 3, 4)))
    x, scale, upstream = draw
    return x.requires_grad_(), norm, linear, scale.requires_grad_(), upstream


@pytest.mark.parametrize("gelu", [False, True])
def test_scaled_linear_is_the_plain_form(gelu: bool) -> None:
    x, _, linear, scale, upstream = parts(torch.float64)
    leaves = (x, linear.weight, linear.bias, scale)
    plain = scale * linear(F.gelu(x) if gelu else x)
    lean = scaled_linear(x, linear, scale, gelu)
    torch.testing.assert_close(lean, plain)
    for ours, theirs in zip(*(torch.autograd.grad(out, leaves, upstream) for out in (lean, plain)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_norm_linear_is_the_plain_form() -> None:
    x, norm, linear, _, upstream = parts(torch.float64)
    leaves = (x, norm.weight, norm.bias, linear.weight, linear.bias)
    plain, lean = linear(norm(x)), norm_linear(x, norm, linear)
    torch.testing.assert_close(lean, plain)
    for ours, theirs in zip(*(torch.autograd.grad(out, leaves, upstream) for out in (lean, plain)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_inside_autocast_products_are_rounded_as_in_the_plain_form_and_gradients_are_float32() -> None:
    x, norm, linear, scale, upstream = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain, lean = linear(norm(x)), norm_linear(x, norm, linear)
        scaled = scaled_linear(lean, nn.Linear(4, 4), scale, gelu=True)
    assert torch.equal(lean, plain)
    assert scaled.dtype == torch.bfloat16
    leaves = (x, norm.weight, norm.bias, linear.weight, linear.bias)
    both = (torch.autograd.grad(out, leaves, upstream.bfloat16(), retain_graph=True) for out in (lean, plain))
    for ours, theirs in zip(*both, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_only_the_input_is_kept() -> None:
    x, norm, linear, scale, _ = parts(torch.float32)
    own = {tensor.data_ptr() for tensor in (x, norm.weight, norm.bias, linear.weight, linear.bias, scale)}
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scaled_linear(x, linear, scale, gelu=True)
        norm_linear(x, norm, linear)
    assert kept == [6, 6]  # mean and deviation of each token
