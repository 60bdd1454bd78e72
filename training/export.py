"""`python -m training.export CHECKPOINT OUT.safetensors`: portable backbone weights from a training checkpoint.

The card in the file holds the architecture, the preset and all settings of the run, the hashes of the data (but no
path), the number of steps, and the last logged metrics. A model card for people is written beside the weights.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import CliPositionalArg

from pipeline.cards import refuse_edited, save_card
from pipeline.files import sha256_file
from pipeline.settings import Command, UserError, run_command
from training.backbone.timm_format import save_timm
from training.backbone.transformers_format import README, save_transformers
from training.backbone.vit import VitSettings
from training.backbone.weights import backbone_sha256, build_backbone, save_backbone
from training.checkpoint import MODEL, Content, load_checkpoint
from training.metrics import METRICS, read_metrics
from training.model_card import LICENSES, NO_LICENSE, Format, License, model_card, read_result
from training.run_config import CONFIG, ORIGIN

_LOCATIONS = ("shards", "neighbours", "cache")
"""Settings that are paths or URIs, even if they are a name without a slash."""
_NOT_SETTINGS = {"data": ("weight", "mix"), "model": ("init", "init_options")}
"""Settings by their group that `ORIGIN` describes without paths."""


class ExportCommand(Command):
    """Write the backbone of a training checkpoint as one safetensors file that describes itself."""

    program: ClassVar[str] = "python -m training.export"

    checkpoint: CliPositionalArg[Path]
    """Folder of a checkpoint, with model.safetensors and config.json."""
    out: CliPositionalArg[Path]
    """File to write, for example teacher.safetensors."""
    part: Literal["teacher", "student"] = "teacher"
    """Evaluation and the published weights use the teacher."""
    format: Format = "portable"
    """portable: one file. transformers: a folder OUT for AutoModel.from_pretrained. timm: a folder for timm."""
    scores: tuple[Path, ...] = ()
    """Result files of `python -m evaluation` on these weights, for the model card, separated by commas."""
    license: str = "unknown"
    """License of the weights in the model card, an identifier of the Hugging Face Hub such as apache-2.0."""
    license_name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    """Name of the license for `--license other`: lower case, without spaces."""

    @model_validator(mode="after")
    def _known_license(self) -> "ExportCommand":
        if self.license not in LICENSES:
            close = difflib.get_close_matches(self.license.lower(), sorted(LICENSES), 3) or ("apache-2.0", "mit")
            raise ValueError(
                f"license = {self.license!r} is no identifier of the Hugging Face Hub, such as {', '.join(close)}: for "
                "any other license, give --license other --license_name NAME"
            )
        if (self.license == "other") != (self.license_name is not None):
            raise ValueError("license_name belongs to --license other, which needs it")
        return self


def export(
    checkpoint: Path,
    out: Path,
    part: Literal["teacher", "student"],
    format: Format = "portable",  # noqa: A002 - the name of the option
    scores: Sequence[Path] = (),
    license: License = NO_LICENSE,  # noqa: A002 - the name of the option
) -> str:
    """Write the backbone of `part` to `out`, and its model card; return the SHA-256 of the weights.

    Raises:
        UserError: the checkpoint is damaged, its weights do not match its settings, OUT holds something else, or a
            result file is about other weights.
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
    origin = {**card(content), "part": part, "weights_sha256": sha256}
    results = [read_result(path, sha256) for path in scores]
    described = {"architecture": settings.model_dump(mode="json"), **origin}
    text = model_card(out.stem if format == "portable" else out.name, described, results, license, format)
    if format == "portable":
        refuse_edited(_readme(out, format))
        save_backbone(out, backbone, origin)
        save_card(_readme(out, format), text)
    else:
        (save_transformers if format == "transformers" else save_timm)(out, backbone, origin, text)
    return sha256


def _readme(out: Path, format: Format) -> Path:  # noqa: A002 - the name of the option
    """The model card: in the folder, or beside the file."""
    return out.with_name(f"{out.stem}.README.md") if format == "portable" else out / README


def card(content: Content) -> dict[str, Any]:
    """Origin of the weights, without any path of this machine."""
    published: dict[str, Any] = _without_paths(
        {
            **_described(content.config),
            "steps": content.step,
            "logged": _logged(content.path.resolve().parent.parent, content.step),
        }
    )
    return published


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run and of the run that it branched from."""
    settings = {key: value for key, value in config.items() if key not in ("preset", "branched_from", *ORIGIN)}
    for group, others in _NOT_SETTINGS.items():
        settings[group] = {key: value for key, value in config.get(group, {}).items() if key not in others}
    branch = config.get("branched_from")
    return {
        "preset": config.get("preset"),
        **{key: config.get(key) for key in ORIGIN},
        "config": settings,
        "branched_from": branch and {**branch, **_described(branch["config"])},
    }


def _without_paths(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """A JSON value without the members whose value is a path or an address, and without those of `_LOCATIONS`."""
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if key not in _LOCATIONS and not _is_path(item)}
        return {key: _without_paths(item) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value if not _is_path(item)]
    return value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)


def _logged(run: Path, step: int) -> dict[str, Any]:
    """Losses and measures of collapse in the last log line up to `step`; empty without metrics."""
    if not (run / METRICS).is_file():
        return {}
    lines = [line for line in read_metrics(run) if line["step"] <= step]
    kept = ("step", "loss/", "target_entropy/", "features/")
    return {key: value for key, value in lines[-1].items() if key.startswith(kept)} if lines else {}


def main(command: ExportCommand) -> None:
    """Export the weights and print what was written."""
    chosen = License(command.license, command.license_name)
    sha256 = export(command.checkpoint, command.out, command.part, command.format, command.scores, chosen)
    of_file = f"file hash {sha256_file(command.out)[:12]}, " if command.out.is_file() else ""
    print(f"{command.part} backbone of {command.checkpoint} -> {command.out} ({of_file}content hash {sha256[:12]})")
    print(f"model card: {_readme(command.out, command.format)}")


if __name__ == "__main__":
    run_command(ExportCommand, main)
