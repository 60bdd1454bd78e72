"""`python -m training.import_official IN OUT.safetensors`: published weights of any project as portable weights."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic_settings import CliPositionalArg

from pipeline.settings import Command, run_command
from training.backbone.foreign import BackboneOptions, ForeignBackbone, read_backbone
from training.backbone.transformers_format import save_transformers
from training.backbone.weights import backbone_sha256, save_backbone


class ImportCommand(Command):
    """Turn weights of T-CoRe, DINO, iBOT, DINOv2, MAE, timm or transformers into one file that describes itself."""

    program: ClassVar[str] = "python -m training.import_official"

    checkpoint: CliPositionalArg[Path]
    """File (.pth, .safetensors) or folder, as published; only tensors are read from it."""
    out: CliPositionalArg[Path]
    """File to write, for example tcore-vits16.safetensors."""
    format: Literal["portable", "transformers"] = "portable"
    """portable: one file. transformers: a folder OUT for AutoModel.from_pretrained."""
    backbone: BackboneOptions = BackboneOptions()
    """What the weights do not say."""


def import_official(
    checkpoint: Path,
    out: Path,
    format: Literal["portable", "transformers"] = "portable",  # noqa: A002 - the name of the option
    options: BackboneOptions | None = None,
) -> ForeignBackbone:
    """Write the backbone of published weights to `out` and return how it was read.

    Raises:
        UserError: as `read_backbone`, or `out` cannot be written.
    """
    source = read_backbone(checkpoint, options)
    sha256 = backbone_sha256(source.backbone)
    save = save_transformers if format == "transformers" else save_backbone
    save(out, source.backbone, {"source": checkpoint.name, **source.record(), "weights_sha256": sha256})
    return source


def main(command: ImportCommand) -> None:
    """Import the weights and print what was written."""
    source = import_official(command.checkpoint, command.out, command.format, command.backbone)
    print(*source.summary(), sep="\n")
    print(f"{command.checkpoint} -> {command.out} (weights {backbone_sha256(source.backbone)[:12]})")


if __name__ == "__main__":
    run_command(ImportCommand, main)
