"""Linear layers that keep less for the backward pass: what is cheap to compute again is not kept.

Each is exact and differentiable once. Inside autocast the products run in its type.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def norm_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`linear(norm(x))` for x (..., D), keeping x alone."""
    out: Tensor = _NormLinear.apply(x, norm.weight, norm.bias, linear.weight, linear.bias, norm.eps)  # type: ignore[no-untyped-call]
    return out


def scaled_linear(x: Tensor, linear: nn.Linear, scale: Tensor, gelu: bool = False) -> Tensor:
    """`scale * linear(x)`, or of `gelu(x)`, for x (..., D) and a factor for each output, keeping x alone."""
    out: Tensor = _ScaledLinear.apply(x, linear.weight, linear.bias, scale, gelu)  # type: ignore[no-untyped-call]
    return out


def _product_type(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - a context of torch
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> Tensor:
        dtype = _product_type(x)
        with torch.autocast(x.device.type, enabled=False):
            normed, mean, deviation = torch.native_layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
            ctx.save_for_backward(x, mean, deviation, norm_weight, norm_bias, weight)
            return F.linear(normed.to(dtype), weight.to(dtype), bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, mean, deviation, norm_weight, norm_bias, weight = ctx.saved_tensors
        rows = upstream.flatten(0, -2)
        normed = ((x - mean) * deviation * norm_weight + norm_bias).to(rows.dtype)
        by_weight = rows.T @ normed.flatten(0, -2)
        del normed
        by_normed = (upstream @ weight.to(rows.dtype)).to(x.dtype)
        by_x, by_norm_weight, by_norm_bias = torch.ops.aten.native_layer_norm_backward(
            by_normed, x, x.shape[-1:], mean, deviation, norm_weight, norm_bias, [True, True, True]
        )
        by_bias = rows.sum(dim=0, dtype=weight.dtype)
        return by_x, by_norm_weight, by_norm_bias, by_weight.to(weight.dtype), by_bias, None


class _ScaledLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        gelu: bool,
    ) -> Tensor:
        dtype = _product_type(x)
        with torch.autocast(x.device.type, enabled=False):
            ctx.save_for_backward(x, weight, bias, scale)
            ctx.gelu = gelu
            seen = (F.gelu(x) if gelu else x).to(dtype)
            return F.linear(seen, (scale[:, None] * weight).to(dtype), (scale * bias).to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, bias, scale = ctx.saved_tensors
        rows = upstream.flatten(0, -2)
        seen = (F.gelu(x) if ctx.gelu else x).to(rows.dtype)
        by_scaled_weight = (rows.T @ seen.flatten(0, -2)).to(weight.dtype)
        del seen
        by_scaled_bias = rows.sum(dim=0, dtype=weight.dtype)
        by_x = (upstream @ (scale[:, None] * weight).to(rows.dtype)).to(x.dtype)
        if ctx.gelu:
            by_x = torch.ops.aten.gelu_backward(by_x, x)
        by_scale = torch.einsum("od,od->o", by_scaled_weight, weight) + by_scaled_bias * bias
        return by_x, scale[:, None] * by_scaled_weight, scale * by_scaled_bias, by_scale, None
