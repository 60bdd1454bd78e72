"""`python -m training.import_official IN.pth OUT.safetensors`: the authors' published weights as portable weights."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic_settings import CliPositionalArg
from torch import Tensor

from pipeline.files import sha256_file
from pipeline.settings import Command, UserError, run_command
from training.tensor_files import read_torch
from training.transformers_format import save_transformers
from training.vit import ARCHITECTURES, VitSettings
from training.weights import backbone_sha256, build_backbone, save_backbone

_HEAD_WIDTH = 64  # of every published architecture; the tensors do not tell it


class ImportCommand(Command):
    """Turn a teacher checkpoint of the authors' code (.pth) into one safetensors file that describes itself."""

    program: ClassVar[str] = "python -m training.import_official"

    checkpoint: CliPositionalArg[Path]
    """File with a `teacher` entry, as published; nothing but tensors is read from it."""
    out: CliPositionalArg[Path]
    """File to write, for example tcore-vits16.safetensors."""
    format: Literal["portable", "transformers"] = "portable"
    """portable: one file. transformers: a folder OUT for Dinov2WithRegistersModel.from_pretrained."""


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
        UserError: a tensor that tells a size is missing or has an impossible shape.
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


def import_official(
    checkpoint: Path,
    out: Path,
    format: Literal["portable", "transformers"] = "portable",  # noqa: A002 - the name of the option
) -> str:
    """Write the teacher backbone of a published checkpoint to `out`; returns the SHA-256 of its weights.

    Raises:
        UserError: the file is not such a checkpoint.
    """
    tensors = read_teacher_backbone(checkpoint)
    backbone = build_backbone(infer_settings(tensors, checkpoint), tensors, checkpoint)
    sha256 = backbone_sha256(backbone)
    save = save_transformers if format == "transformers" else save_backbone
    origin = {"source": checkpoint.name, "source_sha256": sha256_file(checkpoint)}
    save(out, backbone, {"part": "teacher", **origin, "weights_sha256": sha256})
    return sha256


def main(command: ImportCommand) -> None:
    """Import and say what was written."""
    sha256 = import_official(command.checkpoint, command.out, command.format)
    print(f"teacher backbone of {command.checkpoint} -> {command.out} (weights {sha256[:12]})")


if __name__ == "__main__":
    run_command(ImportCommand, main)
