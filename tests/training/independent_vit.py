"""A ViT with registers in thirty lines that knows nothing of this project but the names in an exported file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F


def features(path: Path, images: Tensor) -> Tensor:
    """Tokens (B, 1 + R + P, D) of images of the size that the file's position table is for."""
    with safe_open(path, framework="pt") as file:
        t: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card: dict[str, Any] = json.loads(file.metadata()["tcore_card"])["architecture"]

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-6).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    patches = F.unfold(images, card["patch_size"], stride=card["patch_size"]).mT
    patches = patches @ t["patch_embed.proj.weight"].flatten(1).T + t["patch_embed.proj.bias"]
    batch = len(images)
    x = torch.cat([t["cls_token"].expand(batch, -1, -1), patches], 1) + t["pos_embed"]
    x = torch.cat([x[:, :1], t["register_tokens"].expand(batch, -1, -1), x[:, 1:]], 1)
    for block in (f"blocks.{number}" for number in range(card["depth"])):
        q, k, v = (
            linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").view(*x.shape[:2], 3, card["heads"], -1).unbind(2)
        )
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
        x = x + t[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + t[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")
