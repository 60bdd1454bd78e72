"""`python -m pipeline.publish SHARDS --repo NAME --license LICENSE`."""

from collections import Counter
from pathlib import Path
from typing import ClassVar

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field
from pydantic_settings import CliPositionalArg

from pipeline.cards import README, save_card
from pipeline.dataset import INDEX, REJECTS, ShardDataset
from pipeline.publish.card import dataset_card
from pipeline.publish.upload import check_files, upload, upload_steps
from pipeline.reading import reading
from pipeline.record import dali_index_file
from pipeline.settings import Command, UserError, run_command
from pipeline.storage import Folder


class PublishCommand(Command):
    """Upload a finished dataset to the Hugging Face Hub, with a card by which `datasets` loads it.

    Writes SHARDS/README.md, then uploads the shards, the index, the rejects and last the manifest. If it is
    interrupted, the same command continues. Log in first with `hf auth login`, or set HF_TOKEN.
    """

    program: ClassVar[str] = "python -m pipeline.publish"

    shards: CliPositionalArg[Folder]
    """Folder of the dataset."""
    repo: str = Field(pattern=r"^([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*$", max_length=96)
    """Repository on the Hub: NAME, or USER/NAME. It is created if it does not exist."""
    license: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    """License of the dataset, an identifier of the Hub such as cc-by-4.0; see docs/data-terms.md."""
    private: bool = True
    """Whether a new repository can be seen by its owner alone. Make it public on the Hub, or with --private false."""
    dry_run: bool = False
    """Write the card and list what would be uploaded, without a network."""


def _rejects(folder: Path, hint: str) -> Counter[str]:
    """Number of rejects by reason."""
    with reading(folder / REJECTS, "a Parquet file", hint):
        return Counter(pq.read_table(folder / REJECTS, columns=["reason"])["reason"].to_pylist())


def _absolute(folder: Path, name: str) -> int:
    """Inputs that a table names by a path or URI of this machine."""
    sources = pq.read_table(folder / name, columns=["source"])["source"]
    return int(pc.sum(pc.match_substring_regex(sources, r"^/|://")).as_py() or 0)


def _listed(folder: Path, names: list[str]) -> list[tuple[str, int]]:
    """Files that are uploaded, with their bytes."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder / missing[0]} is missing: run the same `make shards` command again, which writes it")
    return [(name, (folder / name).stat().st_size) for name in names]


def main(command: PublishCommand) -> None:
    """Write the card, print what is uploaded, and upload it."""
    folder = command.shards
    dataset = ShardDataset(folder)
    manifest = dataset.manifest
    if not len(dataset):
        raise UserError(f"{folder} holds no samples")
    check_files([path.name for path in folder.iterdir()], manifest, folder)
    rejects = _rejects(folder, dataset.repair_hint)
    name = command.repo.rpartition("/")[2]
    save_card(folder / README, dataset_card(name, manifest, int(dataset.num_frames.max()), rejects, command.license))
    shards, last = upload_steps(manifest)
    tars = [shard.file for shard in manifest.shards]
    files = _listed(folder, [*tars, *map(dali_index_file, tars), INDEX, REJECTS, *last.patterns])
    gigabytes = sum(size for _, size in files) / 1e9
    print(f"{folder / README}: the card, also for `datasets.load_dataset({str(folder)!r})`")
    print(f"{len(files)} files, {gigabytes:.3f} GB for the dataset repository {command.repo}:")
    for patterns in (shards.patterns, last.patterns):
        print(f"  {', '.join(patterns)}")
    if absolute := sum(_absolute(folder, table) for table in (INDEX, REJECTS)):
        print(f"note: {INDEX} and {REJECTS} name {absolute} inputs by their paths on this machine")
    if command.dry_run:
        print("nothing was uploaded (--dry_run true)")
    else:
        print(f"uploaded to {upload(folder, command.repo, command.private, manifest)}")


if __name__ == "__main__":
    run_command(PublishCommand, main)
