"""Check the dataset as a whole: counts, files, order of the index, rejects."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.dataset import (
    INDEX,
    INDEX_SCHEMA,
    JOB,
    MANIFEST,
    PARTS,
    REJECTS,
    REJECTS_SCHEMA,
    Manifest,
    Shard,
    fits,
    with_columns,
)
from pipeline.files import TEMPORARY_PREFIX, sha256_file
from pipeline.record import dali_index_file, shuffle_rank
from pipeline.settings import Settings
from pipeline.spec import ClipSettings, FrameSettings, ImageSettings, Reason, TripletSettings
from pipeline.storage import Storage
from pipeline.verify.finding import Finding, Report
from pipeline.verify.sample import TRIPLET_KEY

_SHARD_FILE = re.compile(r"[A-Za-z0-9_-]+-\d{6,}\.(tar|idx)")
_SETTINGS: dict[str, type[Settings]] = {
    "clips": ClipSettings,
    "frames": FrameSettings,
    "images": ImageSettings,
    "triplets": TripletSettings,
}
_OPTIONAL = {"parent", "start_s", "end_s"}
"""Columns of the index that may be null: a sample that is all of its input has none."""
_UNREADABLE = (Exception,)
"""Arrow raises all kinds of exceptions for damaged tables."""


def check_settings(manifest: Manifest, report: Report) -> bool:
    """Whether the settings in the manifest fit its media and layout; all other checks need them."""
    needed = ["images" if manifest.media == "images" else "frames"]
    needed += ["triplets"] * (manifest.layout == "triplets")
    try:
        for group in {**dict.fromkeys(needed), **manifest.settings}:
            _SETTINGS[group].model_validate(manifest.settings[group])
    except (LookupError, ValidationError):
        report(Finding(MANIFEST, "settings", f"the group {group} is missing or damaged"))
        return False
    return True


def check_manifest(manifest: Manifest, report: Report) -> None:
    """Check the counts and shard names of the manifest."""
    if manifest.samples != (total := sum(shard.samples for shard in manifest.shards)):
        report(Finding(MANIFEST, "samples", f"is {manifest.samples}; its shards have {total}"))
    names = [shard.file for shard in manifest.shards]
    expected = re.compile(rf"{re.escape(manifest.name)}-\d{{6,}}\.tar")
    for name in names:
        if not expected.fullmatch(name):
            report(Finding(MANIFEST, name, f"is not the name of a shard; allowed are {manifest.name}-000000.tar, ..."))
    if names != sorted(set(names)):
        report(Finding(MANIFEST, "shards", "are not sorted by name, or one is listed twice"))


def check_files(storage: Storage, manifest: Manifest, report: Report) -> None:
    """Find shard files of other datasets, and files that a job left behind.

    Those of an unfinished job, which appends inputs as long as there is a manifest, are left to it.
    """
    if storage.size(JOB) is not None:
        return
    known = {shard.file for shard in manifest.shards} | {dali_index_file(shard.file) for shard in manifest.shards}
    for name in storage.files():
        if name.startswith(TEMPORARY_PREFIX):
            report(Finding(name, "", "is incomplete, left by a job that was killed", extraneous=True))
        elif _SHARD_FILE.fullmatch(name) and name not in known:
            report(Finding(name, "", f"does not belong to this dataset: {MANIFEST} does not list it", extraneous=True))
    if storage.files(PARTS):
        report(Finding(PARTS, "", "was left by an unfinished job", extraneous=True))


def check_rejects(storage: Storage, manifest: Manifest, report: Report) -> None:
    """Check columns, reasons and number of the rejects."""
    reasons = {reason.value for reason in Reason}
    try:
        with storage.parquet(REJECTS) as file:
            if not fits(file.schema_arrow, REJECTS_SCHEMA):
                report(Finding(REJECTS, "", f"has the columns {_columns(file.schema_arrow)}"))
                return
            if file.metadata.num_rows != manifest.rejects:
                report(Finding(REJECTS, "", f"has {file.metadata.num_rows} rows; {MANIFEST} says {manifest.rejects}"))
            unknown: Counter[Any] = Counter()
            for batch in file.iter_batches():
                unknown.update(value for value in batch["reason"].to_pylist() if value not in reasons)
            for value, count in unknown.items():
                report(Finding(REJECTS, "", f"{count} rows have the unknown reason {value!r}"))
    except FileNotFoundError:
        report(Finding(REJECTS, "", "is missing"))
    except _UNREADABLE as error:
        report(Finding(REJECTS, "", f"cannot be read: {error}"))


def check_tables(storage: Storage, manifest: Manifest, damaged: Iterable[str], report: Report) -> None:
    """Check the hashes of index and rejects unless they are already known as damaged."""
    for name in {INDEX, REJECTS} - set(damaged):
        with storage.local(name) as path:
            if sha256_file(path) != manifest.tables.get(name):
                report(Finding(name, "", f"has another sha256 than {MANIFEST} says"))


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema) or "none"


class IndexReader:
    """Reads the index rows shard by shard, and checks the counts and the order of all rows.

    The rows of the first inputs, and those of each batch of appended ones, must be in the order that the seed gives
    their keys, which also reveals duplicate keys within a batch.
    """

    def __init__(self, storage: Storage, manifest: Manifest, report: Report) -> None:
        self._storage, self._manifest, self._report = storage, manifest, report
        self._last: tuple[bytes, str] | None = None
        self._numbers: dict[str, int] = {}
        """Last number of each clip of the current file."""
        self._files = self._rows = self._frames = self._disordered = 0
        self._starts = [f"{manifest.name}-{batch.first_shard:06d}.tar" for batch in manifest.appended]
        self._complete = True

    def shards(self) -> Iterator[tuple[Shard, pa.Table | None]]:
        """Yield each shard of the manifest with its rows; None if they cannot be read."""
        with ExitStack() as stack:
            file = self._open(stack)
            groups = {} if file is None else self._groups(file)
            for shard in self._manifest.shards:
                while self._starts and shard.file >= self._starts[0]:
                    del self._starts[0]
                    self._last = None
                rows = None if file is None else self._rows_of(file, groups.pop(shard.file, None), shard.file)
                self._complete &= rows is not None
                yield shard, rows
            for name in groups:
                self._report(Finding(INDEX, "", f"has rows of {name}, which {MANIFEST} does not list"))
            if file is not None and self._complete and self._manifest.appended:
                self._check_unique(file)
        self._check_totals()

    def _open(self, stack: ExitStack) -> pq.ParquetFile | None:
        try:
            file = stack.enter_context(self._storage.parquet(INDEX))
        except FileNotFoundError:
            self._report(Finding(INDEX, "", "is missing"))
            return None
        except _UNREADABLE as error:
            self._report(Finding(INDEX, "", f"cannot be read: {error}"))
            return None
        if not fits(file.schema_arrow, INDEX_SCHEMA):
            self._report(Finding(INDEX, "", f"has the columns {_columns(file.schema_arrow)}"))
            return None
        return file

    def _groups(self, file: pq.ParquetFile) -> dict[str, int]:
        """Row group of each shard, by the shard of its first row."""
        groups: dict[str, int] = {}
        for group in range(file.num_row_groups):
            try:
                name = file.read_row_group(group, columns=["shard"])["shard"][0].as_py()
            except _UNREADABLE:
                continue  # reported by _rows_of
            if name in groups:
                self._report(Finding(INDEX, "", f"has two groups of rows of {name}"))
            groups[name] = group
        return groups

    def _rows_of(self, file: pq.ParquetFile, group: int | None, name: str) -> pa.Table | None:
        if group is None:
            self._report(Finding(INDEX, "", f"has no readable rows of {name}"))
            return None
        try:
            rows = with_columns(file.read_row_group(group), INDEX_SCHEMA)
            rows.validate(full=True)
        except _UNREADABLE as error:
            self._report(Finding(INDEX, "", f"the rows of {name} cannot be read: {error}"))
            return None
        if empty := [c for c in rows.column_names if rows[c].null_count and c not in _OPTIONAL]:
            self._report(Finding(INDEX, "", f"rows of {name} have no {', '.join(empty)}"))
            return None
        for key, parent, frames in zip(*(rows[c].to_pylist() for c in ("key", "parent", "num_frames")), strict=True):
            self._check_order(key, parent)
            self._rows += 1
            self._frames += frames
        return rows

    def _check_unique(self, file: pq.ParquetFile) -> None:
        """Check that no batch has a key of another one."""
        counts = pc.value_counts(file.read(columns=["key"])["key"])
        for entry in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist():
            self._report(Finding(INDEX, entry["values"], f"{entry['counts']} samples have this key"))

    def _check_order(self, key: str, parent: str | None) -> None:
        named = TRIPLET_KEY.fullmatch(key) if self._manifest.layout == "triplets" else None
        clip, number = (named[1], int(named[2])) if named else (key, 0)
        file = clip if parent is None else parent
        position = (shuffle_rank(file, self._manifest.seed), file)
        if position != self._last:
            self._numbers = {}
        if self._last is None or position > self._last:
            self._files += 1
        elif position < self._last or number <= self._numbers.get(clip, -1):
            self._disordered += 1
            if self._disordered == 1:
                self._report(Finding(INDEX, key, "is not in the order of the seed, or is a duplicate"))
        self._last = position
        self._numbers[clip] = number

    def _check_totals(self) -> None:
        manifest = self._manifest
        if not self._complete:
            return
        if self._disordered > 1:
            self._report(Finding(INDEX, "", f"{self._disordered} rows are not in the order of the seed"))
        for field, result in (("samples", self._rows), ("frames", self._frames)):
            if getattr(manifest, field) != result:
                self._report(Finding(MANIFEST, field, f"is {getattr(manifest, field)}; {INDEX} has {result}"))
        most = self._files + manifest.rejects
        least = self._files if manifest.is_cut else most  # one file may have samples and rejects
        if not self._disordered and not least <= manifest.inputs <= most:
            sums = f"{self._files} in the shards and {manifest.rejects} rejects"
            self._report(Finding(MANIFEST, "inputs", f"is {manifest.inputs}; there are {sums}"))
