"""Remove inputs from a finished dataset, for instance withdrawn videos."""

from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

from pipeline.dataset import MANIFEST, Manifest
from pipeline.settings import UserError
from pipeline.shards.finished import (
    Change,
    ShardTables,
    input_keys,
    key_by_path,
    names_of,
    new_header,
    open_base,
    shard_tables,
)
from pipeline.shards.lists import text_lines
from pipeline.shards.plan import Plan, PlanRow, plan_writer, readable_bytes
from pipeline.shards.publish import shard_number
from pipeline.storage import Storage, open_storage


class Removal(NamedTuple):
    """What a list of names removes from a dataset."""

    change: Change | None
    """The job that removes it; None if there is nothing to remove."""
    inputs: int
    samples: int
    unmatched: list[str]
    """Names that no input has or had."""


def read_names(uri: str) -> list[str]:
    """The lines of a text file, without blank ones.

    Raises:
        UserError: it cannot be read.
    """
    folder, name = open_storage(uri).split()
    try:
        with folder.open(name) as stream:
            return list(filter(None, (line.strip() for line in text_lines(stream, uri))))
    except OSError as error:
        raise UserError(f"cannot read the list of inputs to remove, {uri}: {error.strerror or error}") from error


class _Shard:
    """What stays of a shard."""

    def __init__(self, tables: ShardTables, manifest: Manifest, names: Set[str]) -> None:
        self.number = tables.number
        self.matched: set[str] = set()
        self.samples = 0
        """Removed samples."""
        self.kept: dict[str, str] = {}
        """Sources and keys of the inputs that stay: those of the samples in order, then those of the rejects."""
        sources = tables.rows["source"].to_pylist()
        removed = set()
        for source, key in zip(sources, input_keys(tables.rows, manifest), strict=True):
            if matched := names & names_of(source, key):
                self.matched |= matched
                self.samples += 1
                removed.add(source)
            else:
                self.kept[source] = key
        self.inputs = len(removed)
        """Removed inputs."""
        rejects = zip(tables.rejects["source"].to_pylist(), tables.rejects["start_s"].to_pylist(), strict=True)
        for source, start_s in rejects:
            matched = names & names_of(source, key_by_path(source, manifest.keys))
            if matched or (source in removed and start_s is not None):
                self.matched |= matched
                self.inputs += start_s is None or source not in removed  # segments of one file are one input
                removed.add(source)
            else:
                self.kept.setdefault(source, "")

    def planned(self) -> Iterator[PlanRow]:
        """The inputs that stay; their samples and rejects are copied."""
        for source, key in self.kept.items():
            yield readable_bytes(source), key, "", -1, None, None, "", b"", 1, []


def _check_whole(out: Storage, manifest: Manifest, shard: _Shard) -> None:
    for recorded in manifest.shards:
        if shard_number(recorded.file) == shard.number and out.size(recorded.file) != recorded.bytes:
            raise UserError(
                f"{out}/{recorded.file} is not as {MANIFEST} says, so that its samples cannot be copied: run the job "
                "without --remove first, which writes it again"
            )


def plan_removal(out: Storage, manifest: Manifest, names: list[str], target: Path) -> Removal:
    """Plan the shards that lose an input with one of the `names`, and write the plan to `target`.

    Raises:
        UserError: a shard that loses a sample is damaged, or the dataset does not record the shards of its rejects.
    """
    base = open_base(out, manifest)
    wanted, matched = set(names), set[str]()
    numbers, inputs, samples, planned = [], 0, 0, 0
    with plan_writer(target) as writer:
        for tables in shard_tables(out, base, columns=["key", "source", "parent"]):
            shard = _Shard(tables, manifest, wanted)
            if not shard.inputs:
                continue
            _check_whole(out, manifest, shard)
            writer.write(shard.planned())
            numbers.append(shard.number)
            matched |= shard.matched
            inputs += shard.inputs
            samples += shard.samples
            planned += len(shard.kept)
    unmatched = [name for name in dict.fromkeys(names) if name not in matched and name not in manifest.removed]
    if not numbers:
        return Removal(None, 0, 0, unmatched)
    plan = Plan(
        media="images" if manifest.media == "images" else "clips",
        classes=manifest.classes,
        inputs=planned,
        samples_per_shard=manifest.samples_per_shard,
        shards=len(numbers),
        fingerprint=manifest.source_fingerprint,
        ignored={},
        numbers=numbers,
    )
    removed = sorted({*manifest.removed, *matched})
    header = new_header(manifest, inputs=manifest.inputs - inputs, removed=removed)
    return Removal(Change(base, plan, header, numbers, []), inputs, samples, unmatched)
