"""`python -m training.export CHECKPOINT OUT.safetensors`: portable backbone weights from a training checkpoint.

The card in the file holds the architecture, the preset and all settings of the run, the hashes of the data (but no
path), the number of steps, and the last logged metrics.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError
from pydantic_settings import CliPositionalArg

from pipeline.files import sha256_file
from pipeline.settings import Command, UserError, run_command
from training.backbone.transformers_format import save_transformers
from training.backbone.vit import VitSettings
from training.backbone.weights import backbone_sha256, build_backbone, save_backbone
from training.checkpoint import MODEL, Content, load_checkpoint
from training.metrics import METRICS, read_metrics
from training.run_config import CONFIG, ORIGIN

_LOCATIONS = {"data": ("shards", "weight", "mix", "neighbours", "cache"), "model": ("init",)}
"""Settings by their group that hold paths, or belong to the data."""


class ExportCommand(Command):
    """Write the backbone of a training checkpoint as one safetensors file that describes itself."""

    program: ClassVar[str] = "python -m training.export"

    checkpoint: CliPositionalArg[Path]
    """Folder of a checkpoint, with model.safetensors and config.json."""
    out: CliPositionalArg[Path]
    """File to write, for example teacher.safetensors."""
    part: Literal["teacher", "student"] = "teacher"
    """Evaluation and the published weights use the teacher."""
    format: Literal["portable", "transformers"] = "portable"
    """portable: one file. transformers: a folder OUT for Dinov2WithRegistersModel.from_pretrained."""


def export(
    checkpoint: Path,
    out: Path,
    part: Literal["teacher", "student"],
    format: Literal["portable", "transformers"] = "portable",  # noqa: A002 - the name of the option
) -> str:
    """Write the backbone of `part` to `out` and return its SHA-256.

    Raises:
        UserError: the checkpoint is damaged, its weights do not match its settings, or OUT holds something else.
    """
    content = load_checkpoint(checkpoint, optimizer=False)
    try:
        settings = VitSettings.model_validate(content.config["model"]["backbone"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{checkpoint / CONFIG} does not describe model.backbone of a training run") from error
    prefix = f"{part}.backbone."
    named = {name.removeprefix("module."): tensor for name, tensor in content.model.items()}
    tensors = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    backbone = build_backbone(settings, tensors, checkpoint / MODEL)
    sha256 = backbone_sha256(backbone)
    save = save_transformers if format == "transformers" else save_backbone
    save(out, backbone, {**card(content), "part": part, "weights_sha256": sha256})
    return sha256


def card(content: Content) -> dict[str, Any]:
    """Origin of the weights, without any path of this machine."""
    return {
        **_described(content.config),
        "steps": content.step,
        "logged": _logged(content.path.resolve().parent.parent, content.step),
    }


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run and of the run that it branched from, without paths."""
    settings = {key: value for key, value in config.items() if key not in ("preset", "branched_from", *ORIGIN)}
    for group, locations in _LOCATIONS.items():
        settings[group] = {key: value for key, value in config.get(group, {}).items() if key not in locations}
    branch = config.get("branched_from")
    return {
        "preset": config.get("preset"),
        **{key: config.get(key) for key in ORIGIN},
        "config": settings,
        "branched_from": branch and {**branch, **_described(branch["config"])},
    }


def _logged(run: Path, step: int) -> dict[str, Any]:
    """Losses and measures of collapse in the last log line up to `step`; empty without metrics."""
    if not (run / METRICS).is_file():
        return {}
    lines = [line for line in read_metrics(run) if line["step"] <= step]
    kept = ("step", "loss/", "target_entropy/", "features/")
    return {key: value for key, value in lines[-1].items() if key.startswith(kept)} if lines else {}


def main(command: ExportCommand) -> None:
    """Export the weights and print what was written."""
    sha256 = export(command.checkpoint, command.out, command.part, command.format)
    of_file = f"file hash {sha256_file(command.out)[:12]}, " if command.out.is_file() else ""
    print(f"{command.part} backbone of {command.checkpoint} -> {command.out} ({of_file}content hash {sha256[:12]})")


if __name__ == "__main__":
    run_command(ExportCommand, main)
