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

    Writes OUT/index.html, one page without outside parts, and OUT/contact-sheet.png.
    """

    program: ClassVar[str] = "python -m pipeline.preview"

    dataset: CliPositionalArg[Uri | None] = None
    """Folder of the dataset, or its address such as s3://bucket/folder."""
    shards: Uri | None = None
    """The same folder, given as an option."""
    out: Path = Path("preview")
    """Folder for the page and the sheet, outside of the dataset."""
    samples: int = Field(12, ge=1, le=200)
    """Clips or images to show, spread over the classes."""
    draws: int = Field(3, ge=1, le=20)
    """Triplets to show of each clip."""
    seed: Seed = 0
    """Seed of the choice of samples, and of the draws, which are those of a training with this `data.seed`."""
    batch: bool = False
    """Also write OUT/batch.png: a batch of `samples` as the model sees it, with crops, boxes and masks."""
    training: Path | None = None
    """Preset of a training, or config.json of a run, whose data settings --batch draws with; default: the paper's."""

    @model_validator(mode="after")
    def _one_dataset(self) -> "PreviewCommand":
        if bool(self.dataset) == bool(self.shards):
            raise ValueError("give one dataset to show: python -m pipeline.preview DATASET")
        return self

    @property
    def place(self) -> str:
        """Path or address of the dataset."""
        return self.dataset or self.shards or ""


def _check_out(storage: Storage, out: Path) -> None:
    if isinstance(storage, LocalStorage) and Path(storage.uri).resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"--out {out} lies in the dataset {storage}, which stays as it is: choose a folder elsewhere")
    if any((out / name).exists() for name in (MANIFEST, PARTS)):
        raise UserError(f"--out {out} is a dataset, which stays as it is: choose a folder elsewhere")


def main(command: PreviewCommand) -> None:
    """Read, draw and write both files, and say where they are."""
    storage = open_storage(command.place)
    manifest = read_manifest(command.place)
    _check_out(storage, command.out)
    if command.batch or command.training:  # only these load torch and DALI
        from pipeline.preview.batch import batch_settings, write_batch

        settings = batch_settings(command.place, manifest, command.seed, command.training)
    try:
        survey = survey_dataset(storage, manifest)
        chosen = choose(storage, manifest, survey, command.samples, command.seed)
    except Exception as error:  # Arrow's own kinds and Python's
        raise UserError(f"cannot read the tables of {storage} ({error}). {repair_hint(storage)}") from error
    strips = read_strips(storage, manifest, chosen, command.draws, command.seed)
    parts = []

    def samples() -> Iterator[Strip]:
        for strip in tqdm(strips, total=len(chosen), desc="preview", unit=" samples", delay=2):
            parts.append(sheet.part(strip))
            yield strip

    claim(command.out, command.program, [PAGE, SHEET] + [BATCH] * command.batch)
    title = Path(command.place.rstrip("/")).name or str(storage)
    write_bytes(command.out / PAGE, page.render_page(title, manifest, survey, samples(), command.seed).encode())
    clips = int(survey.classes.counts.sum())
    note = f"{len(chosen):,} of {clips:,} {manifest.media}, {len(manifest.classes):,} classes"
    write_bytes(command.out / SHEET, contact_sheet(sheet.arrange(parts), title, note))
    if command.batch:
        write_batch(settings, command.samples, command.out / BATCH)
    print(f"{note}: open {command.out / PAGE} or {command.out / SHEET}")


if __name__ == "__main__":
    run_command(PreviewCommand, main)
