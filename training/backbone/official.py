"""The teacher checkpoints that the authors of T-CoRe published."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipeline.settings import UserError
from training.backbone.tensor_files import read_torch
from training.backbone.vit import ARCHITECTURES, VitSettings

_HEAD_WIDTH = 64  # of all published architectures; it cannot be inferred from the tensors


def read_teacher_backbone(path: Path) -> dict[str, Tensor]:
    """The tensors `teacher -> backbone.*` of a published checkpoint, without the prefix.

    Raises:
        UserError: the file cannot be read, holds more than tensors, or has no teacher backbone.
    """
    content = read_torch(path)
    teacher = content.get("teacher") if isinstance(content, dict) else None
    if not isinstance(teacher, dict):
        raise UserError(f"{path} has no entry `teacher`: give the authors' teacher_checkpoint.pth")
    prefix = "backbone."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in teacher.items()
        if isinstance(name, str) and name.startswith(prefix) and isinstance(tensor, Tensor)
    }
    if not tensors:
        raise UserError(f"{path} has no tensors `teacher -> {prefix}*`: give the authors' teacher_checkpoint.pth")
    return tensors


def infer_settings(tensors: Mapping[str, Tensor], source: Path) -> VitSettings:
    """The architecture from the shapes of the tensors; heads are 64 wide.

    Raises:
        UserError: a tensor is missing or has an impossible shape.
    """
    try:
        width, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
        side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
        sizes = {
            "width": width,
            "depth": len({m[1] for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))}),
            "heads": width // _HEAD_WIDTH,
        }
        names = [name for name, known in ARCHITECTURES.items() if known == sizes]
        return VitSettings.model_validate(
            {
                **sizes,
                "architecture": names[0] if names else None,
                "patch_size": patch_size,
                "registers": tensors["register_tokens"].shape[1],
                "image_size": side * patch_size,
                "mlp_ratio": len(tensors["blocks.0.mlp.fc1.bias"]) / width,
            }
        )
    except KeyError as error:
        raise UserError(f"{source} is not a ViT with register tokens as published: it has no {error}") from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{source} is not a ViT with register tokens as published: {error}") from error
