"""`python -m pipeline.preview DATASET`."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg
from tqdm import tqdm

from pipeline.dataset import MANIFEST, PARTS, read_manifest, repair_hint
from pipeline.files import write_bytes
from pipeline.outputs import claim
from pipeline.preview import page, sheet
from pipeline.preview.strips import Strip, read_strips
from pipeline.preview.survey import choose, survey_dataset
from pipeline.report.contact_sheet import contact_sheet
from pipeline.settings import Command, Seed, UserError, run_command
from pipeline.storage import LocalStorage, Storage, Uri, open_storage

PAGE = "index.html"
SHEET = "contact-sheet.png"
BATCH = "batch.png"


class PreviewCommand(Command):
    """Show a dataset: samples with the triplets that training draws from them, classes, sizes, durations, rejects.

    Writes OUT/index.html, a self-contained page, and OUT/contact-sheet.png.
    """

    program: ClassVar[str] = "python -m pipeline.preview"

    dataset: CliPositionalArg[Uri | None] = None
    """Folder of the dataset, or its URI such as s3://bucket/folder."""
    shards: Uri | None = None
    """The same as an option."""
    out: Path = Path("preview")
    """Folder for the page and the sheet, outside the dataset."""
    samples: int = Field(12, ge=1, le=200)
    """Number of clips or images to show, spread over the classes."""
    draws: int = Field(3, ge=1, le=20)
    """Number of triplets to show for each clip."""
    seed: Seed = 0
    """Seed of the choice of samples and of the triplets, which are those of a training with this `data.seed`."""
    batch: bool = False
    """Also write OUT/batch.png: a batch of `samples` as the model sees it, with crops, boxes and masks."""
    training: Path | None = None
    """Preset of a training, or config.json of a run, with the data settings of --batch; default: the paper's."""

    @model_validator(mode="after")
    def _one_dataset(self) -> "PreviewCommand":
        if bool(self.dataset) == bool(self.shards):
            raise ValueError("give one dataset to show: python -m pipeline.preview DATASET")
        return self

    @model_validator(mode="after")
    def _training_is_for_the_batch(self) -> "PreviewCommand":
        if self.training and not self.batch:
            raise ValueError("training has the data settings of a batch: give --batch too, or leave --training out")
        return self

    @property
    def uri(self) -> str:
        """Path or URI of the dataset."""
        return self.dataset or self.shards or ""


def _check_out(storage: Storage, out: Path) -> None:
    if isinstance(storage, LocalStorage) and Path(storage.uri).resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"--out {out} is inside the dataset {storage}, which must not change: choose another folder")
    if any((out / name).exists() for name in (MANIFEST, PARTS)):
        raise UserError(f"--out {out} is a dataset, which must not change: choose another folder")


def main(command: PreviewCommand) -> None:
    """Read the dataset, write the page, the sheet and with --batch the batch, and print their paths."""
    storage = open_storage(command.uri)
    manifest = read_manifest(storage)
    _check_out(storage, command.out)
    if command.batch:  # only this loads torch, or DALI
        from pipeline.preview.batch import batch_settings, write_batch

        settings = batch_settings(command.uri, manifest, command.seed, command.training)
    try:
        survey = survey_dataset(storage, manifest)
        chosen = choose(storage, manifest, survey, command.samples, command.seed)
    except Exception as error:  # Arrow's errors have no common base with Python's
        raise UserError(f"cannot read the tables of {storage} ({error}). {repair_hint(storage)}") from error
    strips = read_strips(storage, manifest, chosen, command.draws, command.seed)
    rows = []

    def samples() -> Iterator[Strip]:
        for strip in tqdm(strips, total=len(chosen), desc="preview", unit=" samples", delay=2):
            rows.append(sheet.sample_row(strip))
            yield strip

    claim(command.out, command.program, [PAGE, SHEET] + [BATCH] * command.batch)
    title = Path(command.uri.rstrip("/")).name or str(storage)
    write_bytes(command.out / PAGE, page.render_page(title, manifest, survey, samples(), command.seed).encode())
    clips = int(survey.classes.counts.sum())
    note = f"{len(chosen):,} of {clips:,} {manifest.media}, {len(manifest.classes):,} classes"
    write_bytes(command.out / SHEET, contact_sheet(sheet.arrange(rows), title, note))
    if command.batch:
        write_batch(settings, command.samples, command.out / BATCH)
    print(f"{note}: open {command.out / PAGE} or {command.out / SHEET}")


if __name__ == "__main__":
    run_command(PreviewCommand, main)
