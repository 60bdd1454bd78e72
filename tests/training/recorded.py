"""Recorded numbers of the authors' code (`tests/reference/README.md` of the data says what each array is)."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.vit import VisionTransformer, VitSettings

REFERENCE = Path(__file__).parents[1] / "reference"
TINY_VIT = VitSettings(width=64, depth=2, heads=4, image_size=64, drop_path=0)


@functools.cache
def recorded(name: str) -> dict[str, Tensor]:
    """All arrays of `NAME.npz` as tensors."""
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return {key: torch.as_tensor(arrays[key]) for key in arrays.files}


def recorded_backbone(prefix: str, settings: VitSettings = TINY_VIT) -> VisionTransformer:
    """The recorded backbone under `prefix` ("student.backbone." or "teacher.backbone."), in eval mode."""
    backbone = VisionTransformer(settings).eval()
    state = recorded("train_step_state")
    backbone.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return backbone


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """The largest deviation is below `tolerance` times the largest expected magnitude."""
    assert actual.shape == expected.shape
    deviation = (actual.detach().double() - expected.double()).abs().max().item()
    assert deviation <= tolerance * expected.abs().max().item()
