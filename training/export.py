"""`python -m training.export CHECKPOINT OUT.safetensors`: portable backbone weights from a training checkpoint.

The card in the file holds the architecture, the preset and all settings of the run, the hashes of the data (but no
path), the number of steps, and the last logged metrics. A model card for people is written beside the weights.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import CliPositionalArg

from pipeline.cards import refuse_edited, save_card
from pipeline.files import sha256_file
from pipeline.settings import Command, UserError, run_command
from training.backbone.timm_format import save_timm
from training.backbone.transformers_format import README, save_transformers
from training.backbone.vit import VitSettings
from training.backbone.weights import backbone_sha256, build_backbone, save_backbone
from training.checkpoint import MODEL, load_checkpoint
from training.model_card import LICENSES, NO_LICENSE, Format, License, model_card, read_results
from training.provenance import provenance
from training.run_config import CONFIG


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
    run = content.path.resolve().parent.parent
    origin = {**provenance(content.config, run, content.step), "part": part, "weights_sha256": sha256}
    results = read_results(scores, sha256)
    described = {"architecture": settings.model_dump(mode="json"), **origin}
    text = model_card(out, described, results, license, format)
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


def main(command: ExportCommand) -> None:
    """Export the weights and print what was written."""
    chosen = License(command.license, command.license_name)
    sha256 = export(command.checkpoint, command.out, command.part, command.format, command.scores, chosen)
    of_file = f"file hash {sha256_file(command.out)[:12]}, " if command.out.is_file() else ""
    print(f"{command.part} backbone of {command.checkpoint} -> {command.out} ({of_file}content hash {sha256[:12]})")
    print(f"model card: {_readme(command.out, command.format)}")


if __name__ == "__main__":
    run_command(ExportCommand, main)
