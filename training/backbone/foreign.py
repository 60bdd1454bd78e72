"""Read a backbone of any project: the one entry for training, features, evaluation and export.

`read_backbone` gives a `VisionTransformer` for ImageNet-normalized images, whatever the normalization of the source:
the difference is folded into the patch embedding. Only tensors are read; no code in a file is ever run.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from training.backbone.families import BackboneOptions, Facts, refuse_contradiction
from training.backbone.layout import fold_normalization, read_layout
from training.backbone.source import settings_beside, source_sha256
from training.backbone.tensor_files import read_tensors
from training.backbone.transformers_folder import TIMM, Folder, read_folder
from training.backbone.vit import VisionTransformer, VitSettings
from training.backbone.weights import build_backbone, is_export, load_export, refuse_other_weights

__all__ = ["BackboneOptions", "ForeignBackbone", "Normalization", "read_backbone"]

_OURS = "t-core"
"""Family of the exports of this project's own runs."""


class Normalization(NamedTuple):
    """Mean and standard deviation of RGB pixels in 0 to 1."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    origin: str = "default (ImageNet)"
    """Where the numbers come from."""

    @property
    def is_ours(self) -> bool:
        """Whether these are the numbers by which this project normalizes all images."""
        return (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD)


class ForeignBackbone(NamedTuple):
    """A backbone from a file or folder, and how it was read."""

    backbone: VisionTransformer
    """In eval mode, float32, on the CPU; takes ImageNet-normalized images."""
    family: str
    part: str | None
    """teacher or student, if the source says it."""
    mapped: tuple[str, ...]
    """Tensors of the file that became part of the backbone."""
    initial: tuple[str, ...]
    """Parameters that the file does not have, with the value they were given."""
    ignored: tuple[str, ...]
    """Tensors of the file that are no part of the backbone."""
    normalization: Normalization
    """Of the images that the source was trained on."""
    sha256: str
    """Of the file, or over the files of the folder."""
    card: dict[str, Any]
    """Card of weights that this project exported, otherwise empty."""

    def summary(self) -> list[str]:
        """How the source was read, in lines for people."""
        s = self.settings
        lines = [
            f"{self.family}: {s.depth} blocks of width {s.width} with {s.heads} heads, {s.registers} registers",
            f"patches of {s.patch_size} pixels, positions of {s.image_size} (interpolation: {s.interpolation})",
            f"pixels: mean {self.normalization.mean}, deviation {self.normalization.std}: {self.normalization.origin}",
            f"{len(self.mapped)} tensors mapped",
        ]
        for words, names in (("initial value", self.initial), ("ignored", self.ignored)):
            lines += [f"{words}: {', '.join(grouped(names))}"] if names else []
        return lines

    @property
    def settings(self) -> VitSettings:
        """Sizes, heads, LayerNorm epsilon, feed-forward form and interpolation of positions."""
        return self.backbone.settings

    def record(self) -> dict[str, Any]:
        """For a checkpoint, a card or a result, without any path: how the weights were read, as JSON."""
        return {
            "family": self.family,
            "part": self.part,
            "normalization": self.normalization._asdict(),
            "source_sha256": self.sha256,
            "tensors": {
                "mapped": len(self.mapped),
                "initial": grouped(self.initial),
                "ignored": grouped(self.ignored),
            },
            **self.card,  # of an export of imported weights: how those were read
            "architecture": self.settings.model_dump(mode="json"),
        }


def grouped(names: Iterable[str]) -> list[str]:
    """Names with one line for all blocks: `blocks.*.ls1.gamma = 1 (12)`."""
    counts = Counter(re.sub(r"(blocks|layer)\.\d+\.", r"\1.*.", name) for name in names)
    return [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]


def read_backbone(path: Path, options: BackboneOptions | None = None) -> ForeignBackbone:
    """Read a backbone from an export of this project, a `.pth` or safetensors file, or a `transformers` folder.

    Raises:
        UserError: the file is damaged, holds code, is of another architecture, contradicts the options, or does not
            say what only an option can; names the file, and the tensor or the option.
    """
    options = options or BackboneOptions()
    source = _read_export(path) if path.is_file() and is_export(path) else _read_foreign(path, options)
    s, (mean, std, _) = source.settings, source.normalization
    facts = Facts(source.part, source.family, s.heads, s.image_size, s.norm_eps, mean, std)
    refuse_contradiction(facts, options, path)
    return source


def _read_export(path: Path) -> ForeignBackbone:
    card, backbone = load_export(path)
    family, part, names = card.get("family", _OURS), card.get("part"), tuple(backbone.state_dict())
    return ForeignBackbone(backbone, family, part, names, (), (), Normalization(), source_sha256(path), card)


def _read_foreign(path: Path, options: BackboneOptions) -> ForeignBackbone:
    tensors, said, card = read_folder(path) if path.is_dir() else Folder(read_tensors(path), settings_beside(path), {})
    layout = read_layout(tensors, said, options, path)
    normalization = normalization_of(said, options)
    adapted = layout.tensors
    if not normalization.is_ours:
        adapted = fold_normalization(adapted, normalization.mean, normalization.std)
    backbone = build_backbone(layout.settings, adapted, path)
    if layout.family != TIMM:  # a folder for timm holds other tensors with the same tokens
        refuse_other_weights(backbone, card, path)
    return ForeignBackbone(
        backbone,
        card.get("family", _OURS) if card else layout.family,
        card.get("part", layout.part),
        layout.mapped,
        layout.initial,
        layout.ignored,
        normalization,
        source_sha256(path),
        card,
    )


def normalization_of(said: Mapping[str, Any], options: BackboneOptions) -> Normalization:
    """The pixel normalization of a source: `mean` and `std` that it states, else the options, else ImageNet's."""
    if "mean" in said:
        return Normalization(said["mean"], said["std"], "preprocessor file")
    return Normalization(options.mean, options.std, "options") if options.mean else Normalization()
