"""Export of the backbone to a folder for timm: timm.create_model("local-dir:FOLDER", pretrained=True)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from training.backbone.transformers_format import save_folder
from training.backbone.vit import VisionTransformer, VitSettings

_ARCHITECTURES = {768: "vit_base_patch16_224", 1024: "vit_large_patch16_224"}
"""Models of timm by width; the arguments in the configuration replace all of their sizes."""


def timm_config(settings: VitSettings) -> dict[str, Any]:
    """Content of config.json.

    Raises:
        UserError: no model that `timm` builds from a name computes the same.
    """
    written = {"mlp": "gelu", "norm_eps": 1e-6, "class_token": True}
    different = {name: getattr(settings, name) for name in written if getattr(settings, name) != written[name]}
    if different:
        found = ", ".join(f"{name} = {value}" for name, value in different.items())
        needed = ", ".join(f"{name} = {written[name]}" for name in different)
        raise UserError(f"an export for timm needs {needed}; this backbone has {found}: choose --format transformers")
    return {
        "architecture": _ARCHITECTURES.get(settings.width, "vit_small_patch16_224"),
        "num_classes": 0,
        "num_features": settings.width,
        "global_pool": "token",
        "model_args": {
            "img_size": settings.image_size,
            "patch_size": settings.patch_size,
            "embed_dim": settings.width,
            "depth": settings.depth,
            "num_heads": settings.heads,
            "mlp_ratio": settings.mlp_ratio,
            "reg_tokens": settings.registers,
            "init_values": settings.layer_scale,
            "no_embed_class": True,
        },
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, settings.image_size, settings.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def timm_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `VisionTransformer` under the names of timm.

    Its position table has no entry for CLS with `no_embed_class`, so that position is added to the token.
    """
    renamed = {name: tensor for name, tensor in tensors.items() if name not in ("mask_token", "register_tokens")}
    renamed["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
    renamed["pos_embed"] = tensors["pos_embed"][:, 1:].contiguous()
    if tensors["register_tokens"].numel():
        renamed["reg_token"] = tensors["register_tokens"]
    return renamed


def save_timm(folder: Path, backbone: VisionTransformer, card: Mapping[str, Any], readme: str = "") -> None:
    """Write config.json, model.safetensors (float32), README.md and tcore_card.json, atomically.

    Raises:
        UserError: the folder cannot be written or holds other files, or timm has no such model.
    """
    save_folder(folder, backbone, card, timm_tensors, {"config.json": timm_config(backbone.settings)}, readme)
