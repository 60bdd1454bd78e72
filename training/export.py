"""`python -m training.export CHECKPOINT OUT.safetensors`: portable backbone weights from a training checkpoint."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError
from pydantic_settings import CliPositionalArg
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.settings import Command, UserError, run_command
from training.checkpoint import CHECKPOINTS
from training.vit import VitSettings
from training.weights import backbone_sha256, build_backbone, save_backbone


class ExportCommand(Command):
    """Write the backbone of a training checkpoint as one safetensors file that describes itself."""

    program: ClassVar[str] = "python -m training.export"

    checkpoint: CliPositionalArg[Path]
    """Folder of a checkpoint, with model.safetensors and config.json."""
    out: CliPositionalArg[Path]
    """File to write, for example teacher.safetensors."""
    part: Literal["teacher", "student"] = "teacher"
    """The teacher is what evaluation and the published weights use."""


def export(checkpoint: Path, out: Path, part: Literal["teacher", "student"]) -> str:
    """Write the backbone of `part` to `out`; its card holds the whole configuration of the run. Returns its SHA-256.

    Raises:
        UserError: the checkpoint is incomplete, or its weights do not fit its configuration.
    """
    if (checkpoint / CHECKPOINTS).is_dir():
        raise UserError(f"{checkpoint} is the folder of a run: give one of {checkpoint / CHECKPOINTS}/step-*")
    config = _read_json(checkpoint / "config.json")
    try:
        settings = VitSettings.model_validate(config["model"]["backbone"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{checkpoint / 'config.json'} does not describe model.backbone of a training run") from error
    path = checkpoint / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error
    prefix = f"{part}.backbone."
    named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    tensors = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    backbone = build_backbone(settings, tensors, path)
    save_backbone(out, backbone, {"checkpoint": checkpoint.resolve().name, "part": part, "config": config})
    return backbone_sha256(backbone)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path.parent} is no training checkpoint: {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    return content


def main(command: ExportCommand) -> None:
    """Export and say what was written."""
    sha256 = export(command.checkpoint, command.out, command.part)
    print(f"{command.part} backbone of {command.checkpoint} -> {command.out} (weights {sha256[:12]})")


if __name__ == "__main__":
    run_command(ExportCommand, main)
