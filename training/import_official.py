"""`python -m training.import_official IN.pth OUT.safetensors`: the authors' published weights as portable weights."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic_settings import CliPositionalArg

from pipeline.files import sha256_file
from pipeline.settings import Command, run_command
from training.backbone.official import infer_settings, read_teacher_backbone
from training.backbone.transformers_format import save_transformers
from training.backbone.weights import backbone_sha256, build_backbone, save_backbone


class ImportCommand(Command):
    """Turn a teacher checkpoint of the authors' code (.pth) into one safetensors file that describes itself."""

    program: ClassVar[str] = "python -m training.import_official"

    checkpoint: CliPositionalArg[Path]
    """File with a `teacher` entry, as published; only tensors are read from it."""
    out: CliPositionalArg[Path]
    """File to write, for example tcore-vits16.safetensors."""
    format: Literal["portable", "transformers"] = "portable"
    """portable: one file. transformers: a folder OUT for Dinov2WithRegistersModel.from_pretrained."""


def import_official(
    checkpoint: Path,
    out: Path,
    format: Literal["portable", "transformers"] = "portable",  # noqa: A002 - the name of the option
) -> str:
    """Write the teacher backbone of a published checkpoint to `out` and return the SHA-256 of its weights.

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
    """Import the weights and print what was written."""
    sha256 = import_official(command.checkpoint, command.out, command.format)
    print(f"teacher backbone of {command.checkpoint} -> {command.out} (weights {sha256[:12]})")


if __name__ == "__main__":
    run_command(ImportCommand, main)
