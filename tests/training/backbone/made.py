"""Weights in the layouts of other projects, made at random, and an independent ViT that reads those layouts.

Nothing here uses the code under test. The layouts are those of the released code of each project.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH, DEPTH, HEADS, PATCH, SIDE = 24, 2, 3, 4, 5
SIZE = PATCH * SIDE
"""Native image side, pixels."""


class Plan(NamedTuple):
    """Variants of a plain ViT."""

    scales: bool = False
    qkv_bias: bool = True
    class_token: bool = True
    registers: int = 0
    register_name: str = "register_tokens"
    table: Literal["patches", "cls", "all"] = "cls"
    """Which tokens have an entry in the position table."""
    swiglu: bool = False
    resize: Literal["antialias", "plain", "offset"] = "plain"


DINO, DINOV2 = Plan(resize="offset"), Plan(scales=True, resize="offset")
WITH_REGISTERS = Plan(scales=True, registers=4, resize="antialias")
TIMM = Plan(resize="antialias", table="patches", registers=4, register_name="reg_token", scales=True)
MASK = {"mask_token": torch.full((1, WIDTH), 0.5)}


def vit(plan: Plan, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of a ViT."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    positions = SIDE**2 + {"patches": 0, "cls": 1, "all": plan.class_token + plan.registers}[plan.table]
    state = {"pos_embed": draw(1, positions, WIDTH), "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH)}
    state |= {"patch_embed.proj.bias": draw(WIDTH), "norm.weight": draw(WIDTH), "norm.bias": draw(WIDTH)}
    if plan.class_token:
        state["cls_token"] = draw(1, 1, WIDTH)
    if plan.registers:
        state[plan.register_name] = draw(1, plan.registers, WIDTH)
    shapes = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    shapes |= {"mlp.w12": (64, WIDTH), "mlp.w3": (WIDTH, 32)} if plan.swiglu else {}
    shapes |= {} if plan.swiglu else {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for block in (f"blocks.{number}." for number in range(DEPTH)):
        for norm in ("norm1", "norm2"):
            state |= {f"{block}{norm}.weight": 1 + draw(WIDTH), f"{block}{norm}.bias": draw(WIDTH)}
        for name, shape in shapes.items():
            state |= {f"{block}{name}.weight": draw(*shape), f"{block}{name}.bias": draw(shape[0])}
        if plan.scales:
            state |= {f"{block}ls1.gamma": draw(WIDTH), f"{block}ls2.gamma": draw(WIDTH)}
        if not plan.qkv_bias:
            del state[f"{block}attn.qkv.bias"]
    return state


def tokens(state: Mapping[str, Tensor], plan: Plan, images: Tensor) -> Tensor:
    """Tokens (B, prefix + P, D) that the project's own code computes."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))

    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    rows, columns = x.shape[-2:]
    x, table = x.flatten(2).mT, state["pos_embed"]
    before = table.shape[1] - SIDE**2
    grid = table[:, before:].view(1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
    if (rows, columns) != (SIDE, SIDE):
        if plan.resize == "offset":
            scale = ((rows + 0.1) / SIDE, (columns + 0.1) / SIDE)
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        else:
            grid = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=plan.resize == "antialias")
    x = x + grid.flatten(2).mT
    first = [state[name] for name in ("cls_token", plan.register_name) if name in state]
    prefix = torch.cat([*first, torch.empty(1, 0, WIDTH)], 1)
    prefix = torch.cat([prefix[:, :before] + table[:, :before], prefix[:, before:]], 1)
    x = torch.cat([prefix.expand(len(x), -1, -1), x], 1)
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").view(*x.shape[:2], 3, HEADS, -1).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
        mixed = linear(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2), f"{block}.attn.proj")
        x = x + mixed * state.get(f"{block}.ls1.gamma", torch.ones(()))
        hidden = norm(x, f"{block}.norm2")
        if plan.swiglu:
            gate, value = linear(hidden, f"{block}.mlp.w12").chunk(2, -1)
            hidden = linear(gate / (1 + (-gate).exp()) * value, f"{block}.mlp.w3")
        else:
            hidden = linear(F.gelu(linear(hidden, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + hidden * state.get(f"{block}.ls2.gamma", torch.ones(()))
    return norm(x, "norm")


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix."""
    return {prefix + name: tensor for name, tensor in state.items()}


def chunked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The blocks in chunks of one, as DINOv2 saves them: block 1 is `blocks.1.1.`."""
    return {
        f"blocks.{name.split('.')[1]}.{name.removeprefix('blocks.')}" if name.startswith("blocks.") else name: tensor
        for name, tensor in state.items()
    }


class Runs:
    """An object whose unpickling creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)
