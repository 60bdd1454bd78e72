"""Frozen patch features of frames, from weights of several origins."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.reading import reading, reason
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from training.backbone.families import BackboneOptions
from training.backbone.frozen import read_frozen
from training.backbone.layout import renormalization
from training.backbone.vit import VisionTransformer

Precision = Literal["fp32", "bf16"]


class Extractor(NamedTuple):
    """A network that turns frames into grids of features."""

    patch_tokens: Callable[[Tensor], Tensor]
    """Normalized images (B, 3, H, W) to patch tokens (B, gh * gw, D), row by row."""
    patch_size: int
    device: torch.device
    precision: Precision = "fp32"

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patch grid (gh, gw) of a network size.

        Raises:
            UserError: the size is not a multiple of the patch size.
        """
        height, width = size
        if min(size) < 1 or height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"frames of {height}x{width} cannot be cut into patches: height and width must be multiples of the "
                f"patch size {self.patch_size} (--size; for VIP --long_side and --side_multiple)"
            )
        return height // self.patch_size, width // self.patch_size

    @torch.no_grad()
    def stream(self, images: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
        """Yield features (gh, gw, D) of images (3, H, W) of one size, in batches of at most `batch_size`.

        Raises:
            UserError: the features are not finite, or not one for each patch.
        """
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            height, width = self.grid((batch[0].shape[1], batch[0].shape[2]))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                tokens = self.patch_tokens(torch.stack(batch).to(self.device))
            expected = (len(batch), height * width)
            if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[:2] != expected:
                given = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
                raise UserError(
                    f"the network gives {given} for {len(batch)} images; expected is a tensor {(*expected, 'D')}: the "
                    "tokens of the patches, row by row, without CLS and registers"
                )
            if not tokens.isfinite().all():
                raise UserError("the weights give features that are NaN or infinite; they cannot be evaluated")
            yield from tokens.reshape(len(batch), height, width, -1)


def extractor_of(backbone: VisionTransformer, device: torch.device, precision: Precision = "fp32") -> Extractor:
    """Extractor of a backbone in memory, which should be in eval mode and on `device`."""
    return Extractor(lambda images: backbone(images).patches, backbone.settings.patch_size, device, precision)


class Checkpoint(NamedTuple):
    """Weights to score, with their name in tables."""

    name: str
    path: Path
    extractor: Extractor
    origin: dict[str, Any]
    """For the result file: path, hash and the card of the weights."""
    backbone: nn.Module


def open_checkpoint(
    path: Path,
    name: str,
    *,
    device: torch.device,
    options: BackboneOptions | None = None,
    random_seed: int | None = None,
    precision: Precision = "fp32",
) -> Checkpoint:
    """Open weights of any kind: a file or folder that `read_frozen` reads, or a function (see `open_function`).

    With a seed, only the architecture is used and the parameters are random.

    Raises:
        UserError: the file is missing or does not hold weights of a known kind.
    """
    if is_function(path):
        if random_seed is not None:
            raise UserError(f"--random_init needs weights in a file or folder, not a function such as {path}")
        module, extractor, record = open_function(str(path), device, precision)
        return Checkpoint(name, path, extractor, {"name": name, "path": str(path), **record}, module)
    source = read_frozen(path, options, random_seed)
    backbone = source.module.to(device)
    extractor = Extractor(lambda images: backbone(images).patches, source.patch_size, device, precision)
    origin = {"name": name, "path": str(path), "sha256": source.sha256, "card": source.record}
    return Checkpoint(name, path, extractor, {**origin, "random_init_seed": random_seed}, backbone)


class PatchFeatures(NamedTuple):
    """What a function given as weights returns."""

    module: nn.Module
    """Holds the parameters; it is put in eval mode and on the device."""
    patch_tokens: Callable[[Tensor], Tensor]
    """Normalized images (B, 3, H, W) to patch tokens (B, gh * gw, D), row by row."""
    patch_size: int
    """Side of a square patch, pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of RGB pixels in 0 to 1 by which images are normalized."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation, likewise."""


def is_function(path: Path) -> bool:
    """Whether weights are given as `package.module:function`."""
    return bool(re.fullmatch(r"[\w.]+:\w+", str(path))) and not path.exists()


def _are_colors(values: object) -> bool:
    """Whether they are three finite numbers, for red, green and blue."""
    numbers = list(values) if isinstance(values, list | tuple) else []
    return len(numbers) == 3 and all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)


def open_function(
    name: str, device: torch.device, precision: Precision = "fp32"
) -> tuple[nn.Module, Extractor, dict[str, Any]]:
    """Call `package.module:function`, which the user names, for a `PatchFeatures`: module, extractor and record.

    Raises:
        UserError: it cannot be imported, fails, or returns something else.
    """
    module_name, _, function = name.partition(":")
    with reading(f"--weights {name}", "a function that can be imported"):
        build = getattr(import_module(module_name), function)
    try:
        result = build()
    except Exception as error:
        raise UserError(
            f"--weights {name}: the call {function}() raised {type(error).__name__}: {reason(error)}"
        ) from error
    if not isinstance(result, PatchFeatures):
        raise UserError(f"--weights {name} returns a {type(result).__name__}, not evaluation.backbones.PatchFeatures")
    for field, good, needed in (
        ("module", isinstance(result.module, nn.Module), "a torch.nn.Module"),
        ("patch_tokens", callable(result.patch_tokens), "a function of images"),
        ("patch_size", type(result.patch_size) is int and result.patch_size >= 1, "a whole number from 1"),
        ("mean", _are_colors(result.mean), "three numbers"),
        ("std", _are_colors(result.std) and min(result.std) > 0, "three numbers above 0"),
    ):
        if not good:
            raise UserError(f"--weights {name} returns {field} = {getattr(result, field)!r}, which must be {needed}")
    module = result.module.to(device).eval().requires_grad_(False)
    scale, shift = (values.float().view(3, 1, 1).to(device) for values in renormalization(result.mean, result.std))

    def patch_tokens(images: Tensor) -> Tensor:
        return result.patch_tokens(images * scale + shift)

    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    normalization = {"mean": list(result.mean), "std": list(result.std)}
    card = {"function": name, "patch_size": result.patch_size, "normalization": normalization}
    extractor = Extractor(patch_tokens, result.patch_size, device, precision)
    return module, extractor, {"sha256": digest.hexdigest(), "card": card, "random_init_seed": None}
