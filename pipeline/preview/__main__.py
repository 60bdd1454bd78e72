"""`python -m pipeline.preview DATASET`."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg
from tqdm import tqdm

from pipeline.dataset import MANIFEST, PARTS, Manifest, clips_by_frames, read_manifest, repair_hint
from pipeline.files import write_bytes
from pipeline.outputs import claim
from pipeline.preview import page, sheet
from pipeline.preview.settings import reader_settings
from pipeline.preview.strips import Strip, read_strips
from pipeline.preview.survey import choose, survey_dataset
from pipeline.report.contact_sheet import contact_sheet
from pipeline.sampling.distance import distance_notes, triplet_distances
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.settings import Command, Seed, UserError, run_command
from pipeline.spec import TripletSettings
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
    """Preset of a training, or config.json of a run, whose data settings draw the triplets and the batch; default: the
    paper's."""
    sandwich: SandwichSettings = SandwichSettings()
    """Which frames make a triplet: `data.sandwich` of a training; without --training."""

    @model_validator(mode="after")
    def _one_dataset(self) -> "PreviewCommand":
        if bool(self.dataset) == bool(self.shards):
            raise ValueError("give one dataset to show: python -m pipeline.preview DATASET")
        return self

    @model_validator(mode="after")
    def _one_sandwich(self) -> "PreviewCommand":
        if self.training and "sandwich" in self.model_fields_set:
            raise ValueError("training has its own data.sandwich: give --training or --sandwich.*, not both")
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


def _notes(storage: Storage, manifest: Manifest, sandwich: SandwichSettings) -> list[str]:
    """How far apart the frames of the triplets will lie."""
    if manifest.media == "images":
        return []
    if manifest.layout == "triplets":
        sandwich = SandwichSettings(unit=TripletSettings(**manifest.settings["triplets"]).unit)
    distances = triplet_distances(sandwich, clips_by_frames(storage, manifest), manifest.settings["frames"]["fps"])
    return distance_notes(distances, sandwich, manifest.layout) if distances else []


def main(command: PreviewCommand) -> None:
    """Read the dataset, write the page, the sheet and with --batch the batch, and print their paths."""
    storage = open_storage(command.uri)
    manifest = read_manifest(storage)
    _check_out(storage, command.out)
    sandwich = None if command.training else command.sandwich
    settings = reader_settings(command.uri, manifest, command.seed, command.training, sandwich)
    if command.batch:  # only this loads torch, or DALI
        from pipeline.preview.batch import write_batch
    try:
        survey = survey_dataset(storage, manifest)
        notes = _notes(storage, manifest, settings.sandwich)
        chosen = choose(storage, manifest, survey, command.samples, command.seed)
    except Exception as error:  # Arrow's errors have no common base with Python's
        raise UserError(f"cannot read the tables of {storage} ({error}). {repair_hint(storage)}") from error
    strips = read_strips(storage, manifest, chosen, command.draws, settings)
    rows = []

    def samples() -> Iterator[Strip]:
        for strip in tqdm(strips, total=len(chosen), desc="preview", unit=" samples", delay=2):
            rows.append(sheet.sample_row(strip))
            yield strip

    claim(command.out, command.program, [PAGE, SHEET] + [BATCH] * command.batch)
    title = Path(command.uri.rstrip("/")).name or str(storage)
    write_bytes(command.out / PAGE, page.render_page(title, manifest, survey, samples(), settings, notes).encode())
    clips = int(survey.classes.counts.sum())
    note = f"{len(chosen):,} of {clips:,} {manifest.media}, {len(manifest.classes):,} classes"
    write_bytes(command.out / SHEET, contact_sheet(sheet.arrange(rows), title, note))
    if command.batch:
        write_batch(settings, command.samples, command.out / BATCH)
    print("\n".join([f"{note}: open {command.out / PAGE} or {command.out / SHEET}", *notes]))


if __name__ == "__main__":
    run_command(PreviewCommand, main)
