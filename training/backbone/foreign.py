"""Read a backbone of any project: the one entry for training, features, evaluation and export.

`read_backbone` gives a `VisionTransformer` for ImageNet-normalized images, whatever the normalization of the source:
the difference is folded into the patch embedding. Only tensors are read; no code in a file is ever run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pipeline.files import sha256_file
from pipeline.fingerprints import fingerprint
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from training.backbone.families import BackboneOptions, fold_normalization, read_layout, refuse_contradiction
from training.backbone.tensor_files import read_tensors
from training.backbone.transformers_folder import read_folder
from training.backbone.vit import VisionTransformer, VitSettings
from training.backbone.weights import build_backbone, is_export, load_export

__all__ = ["BackboneOptions", "ForeignBackbone", "Normalization", "read_backbone", "refuse_contradiction"]


class Normalization(NamedTuple):
    """Mean and standard deviation of RGB pixels in 0 to 1."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    origin: str = "default (ImageNet)"
    """Where the numbers come from."""


class ForeignBackbone(NamedTuple):
    """A backbone from a file or folder, and how it was read."""

    backbone: VisionTransformer
    """In eval mode, float32, on the CPU; takes ImageNet-normalized images."""
    family: str
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

    @property
    def settings(self) -> VitSettings:
        """Sizes, heads, LayerNorm epsilon, feed-forward form and interpolation of positions."""
        return self.backbone.settings

    def record(self) -> dict[str, Any]:
        """For a checkpoint, a card or a result, without any path: how the weights were read, as JSON."""
        return {
            **self.card,
            "architecture": self.settings.model_dump(mode="json"),
            "family": self.family,
            "normalization": self.normalization._asdict(),
            "source_sha256": self.sha256,
            "tensors": {"mapped": len(self.mapped), "initial": list(self.initial), "ignored": list(self.ignored)},
        }


def read_backbone(path: Path, options: BackboneOptions | None = None) -> ForeignBackbone:
    """Read a backbone from an export of this project, a `.pth` or safetensors file, or a `transformers` folder.

    Raises:
        UserError: the file is damaged, holds code, is of another architecture, contradicts the options, or does not
            say what only an option can; names the file, and the tensor or the option.
    """
    options = options or BackboneOptions()
    if path.is_file() and is_export(path):
        card, backbone = load_export(path)
        refuse_contradiction(
            backbone.settings.model_dump(),
            options.model_dump(include={"heads", "image_size", "norm_eps"}, exclude_none=True),
            path,
        )
        names = tuple(backbone.state_dict())
        return ForeignBackbone(backbone, "t-core", names, (), (), Normalization(), sha256_file(path), card)
    tensors: Mapping[str, Tensor]
    if path.is_dir():
        tensors, said, files = read_folder(path)
        sha256 = fingerprint(path, files)
    else:
        tensors, said, sha256 = read_tensors(path), {}, sha256_file(path)
    layout = read_layout(tensors, said, options, path)
    normalization = _normalization(said, options, path)
    ours = Normalization()
    adapted = layout.tensors
    if normalization[:2] != ours[:2]:
        adapted = fold_normalization(adapted, normalization[:2], ours[:2])
    backbone = build_backbone(layout.settings, adapted, path)
    return ForeignBackbone(
        backbone, layout.family, layout.mapped, layout.initial, layout.ignored, normalization, sha256, {}
    )


def _normalization(said: Mapping[str, Any], options: BackboneOptions, source: Path) -> Normalization:
    refuse_contradiction(said, options.model_dump(include={"mean", "std"}, exclude_none=True), source)
    given = {key: said.get(key, getattr(options, key)) for key in ("mean", "std")}
    if all(value is None for value in given.values()):
        return Normalization()
    default = Normalization()
    origin = "preprocessor file" if "mean" in said else "options"
    return Normalization(given["mean"] or default.mean, given["std"] or default.std, origin)
