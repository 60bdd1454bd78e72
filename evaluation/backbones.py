"""Frozen patch features of frames, from exported weights or from random ones."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.settings import UserError
from training.weights import load_backbone, random_backbone


class Extractor(NamedTuple):
    """What turns frames into grids of features."""

    patch_tokens: Callable[[Tensor], Tensor]
    """Normalised images (B, 3, H, W) to patch tokens (B, gh * gw, D), row by row."""
    patch_size: int
    device: torch.device

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patch grid (gh, gw) of a network size.

        Raises:
            UserError: the size is no multiple of the patch size.
        """
        height, width = size
        if min(size) < 1 or height % self.patch_size or width % self.patch_size:
            raise UserError(f"--size {height},{width}: both must be multiples of the patch size {self.patch_size}")
        return height // self.patch_size, width // self.patch_size

    @torch.no_grad()
    def stream(self, images: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
        """Yield features (gh, gw, D) of images (3, H, W) of one size, at most `batch_size` of which are held at once.

        Raises:
            UserError: the network gives NaN or infinity.
        """
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            height, width = self.grid((batch[0].shape[1], batch[0].shape[2]))
            tokens = self.patch_tokens(torch.stack(batch).to(self.device))
            if not tokens.isfinite().all():
                raise UserError("the weights give features that are NaN or infinite; they cannot be evaluated")
            yield from tokens.reshape(len(batch), height, width, -1)


def open_extractor(weights: Path, *, device: torch.device, random_seed: int | None) -> Extractor:
    """The backbone in `weights`, or one of the same architecture with random parameters if a seed is given.

    Raises:
        UserError: the file is missing or holds no weights of a known kind.
    """
    backbone = load_backbone(weights)
    if random_seed is not None:
        backbone = random_backbone(backbone.settings, random_seed)
    backbone.to(device).float().eval().requires_grad_(False)
    return Extractor(lambda images: backbone(images).patches, backbone.settings.patch_size, device)
