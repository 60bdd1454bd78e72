"""A frozen backbone for features and evaluation: any that can be trained here, and DINOv3."""

from pathlib import Path
from typing import Any, NamedTuple

from training.backbone.families import BackboneOptions, Facts, refuse_contradiction
from training.backbone.foreign import grouped, normalization_of, read_backbone
from training.backbone.rotary import RotaryBackbone, read_rotary
from training.backbone.source import source_sha256
from training.backbone.transformers_folder import ROTARY, model_type, read_preprocessor
from training.backbone.vit import VisionTransformer, random_backbone


class FrozenBackbone(NamedTuple):
    """A backbone in eval mode, float32, without gradients, and where it is from."""

    module: VisionTransformer | RotaryBackbone
    """Maps ImageNet-normalized images (B, 3, H, W) to `Tokens`."""
    width: int
    """Width of a token."""
    patch_size: int
    """Side of a patch, pixels."""
    image_size: int
    """Side of the images that it was trained on last, pixels."""
    record: dict[str, Any]
    """For results: architecture, family, normalization and mapping of the tensors, as JSON."""
    sha256: str
    """Of the file, or over the files of the folder."""


def read_frozen(path: Path, options: BackboneOptions | None = None, random_seed: int | None = None) -> FrozenBackbone:
    """Read a backbone of any project; with a seed, only its architecture, and the parameters are random.

    Raises:
        UserError: as `read_backbone`; DINOv3 also needs the package transformers.
    """
    options = options or BackboneOptions()
    if path.is_dir() and model_type(path) == ROTARY:
        return _read_rotary(path, options, random_seed)
    source = read_backbone(path, options)
    settings = source.settings
    backbone = source.backbone if random_seed is None else random_backbone(settings, random_seed)
    backbone.requires_grad_(False)
    return FrozenBackbone(
        backbone, settings.width, settings.patch_size, settings.image_size, source.record(), source.sha256
    )


def _read_rotary(folder: Path, options: BackboneOptions, random_seed: int | None) -> FrozenBackbone:
    backbone = read_rotary(folder, random_seed)
    config = backbone.model.config
    heads, image_size, norm_eps = config.num_attention_heads, config.image_size, config.layer_norm_eps
    normalization = normalization_of(read_preprocessor(folder), options)
    mean, std = normalization.mean, normalization.std
    refuse_contradiction(Facts(None, ROTARY, heads, image_size, norm_eps, mean, std), options, folder)
    backbone.renormalize(mean, std)
    record = {
        "family": ROTARY,
        "normalization": normalization._asdict(),
        "tensors": {"ignored": grouped(backbone.ignored)},
        "architecture": {"heads": heads, "norm_eps": norm_eps, "image_size": image_size},
    }
    return FrozenBackbone(
        backbone, backbone.width, backbone.patch_size, backbone.image_size, record, source_sha256(folder)
    )
