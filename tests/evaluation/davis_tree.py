"""DAVIS-2017 trees made by code, and a network that needs no weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from evaluation.backbones import Extractor
from evaluation.pictures import save_mask

Frames = NDArray[np.uint8]


def write_sequence(root: Path, name: str, frames: Frames, masks: Mapping[int, Frames]) -> None:
    """Add frames (T, H, W, 3) and masks (H, W) to a tree; the pixels of the frames are kept (PNG in .jpg's clothes)."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / name).mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(root / "JPEGImages" / "480p" / name / f"{number:05d}.jpg", format="PNG")
    for number, mask in masks.items():
        save_mask(root / "Annotations" / "480p" / name / f"{number:05d}.png", mask)
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / "val.txt").open("a") as stream:
        stream.write(f"{name}\n")


def moving_squares(num_frames: int, ids: tuple[int, ...] = (1, 2)) -> tuple[Frames, Frames]:
    """Frames (T, 96, 160, 3) of coloured squares that move over grey noise, and their masks (T, 96, 160)."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (256, 3))
    frames = np.repeat(random.integers(90, 130, (1, 96, 160, 1), np.uint8), 3, 3).repeat(num_frames, 0)
    masks = np.zeros((num_frames, 96, 160), np.uint8)
    for number in range(num_frames):
        for place, one in enumerate(ids):
            top, left = 8 + 48 * place, 16 + 4 * number
            masks[number, top : top + 32, left : left + 48] = one
            frames[number, top : top + 32, left : left + 48] = colours[one]
    return frames, masks


def patch_filter_extractor(weights: NDArray[Any]) -> Extractor:
    """A single convolution (D, 3, 16, 16) of stride 16 in place of a backbone."""
    kernel = torch.from_numpy(weights)

    def patch_tokens(images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, kernel, stride=16).flatten(2).transpose(1, 2)

    return Extractor(patch_tokens, 16, torch.device("cpu"))
