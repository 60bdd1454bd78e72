"""The plan: which inputs go into which shard, a function of their paths and a seed, computed in bounded memory."""

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline.paths import path_bytes, path_text
from pipeline.record import shuffle_rank
from pipeline.settings import UserError
from pipeline.shards.media import NO_CLASS, Media
from pipeline.shards.segments import Cut
from pipeline.shards.sources import Listing, Source
from pipeline.storage import Storage
from pipeline.temporary import temporary_database

_CACHE_KB = 16_000
_ESCAPED = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
_CUT = [("start_ms", pa.int64()), ("end_ms", pa.int64()), ("class_name", pa.string()), ("label", pa.int32())]
_SCHEMA = pa.schema(
    [
        ("path", pa.binary()),
        ("key", pa.string()),
        ("class_name", pa.string()),
        ("label", pa.int32()),
        ("first_byte", pa.int64()),
        ("bytes", pa.int64()),
        ("fault", pa.string()),
        ("owner", pa.binary()),
        ("kept", pa.int8()),
        ("cuts", pa.list_(pa.struct(_CUT))),
    ]
)


class Planned(NamedTuple):
    """One input of a shard. `path` is as in pipeline/paths.py; without a class, `class_name` is "" and `label` -1.

    In a job that changes a finished dataset, `owner` is the path of the input with this key in another shard, and the
    samples and rejects of an input that is `kept` are copied.
    """

    path: str
    key: str
    class_name: str
    label: int
    span: tuple[int, int] | None
    fault: str = ""
    owner: str = ""
    kept: bool = False
    cuts: tuple[Cut, ...] = ()
    """The spans of it that a list names, in order of time; empty: the whole input."""


@dataclass(frozen=True)
class Plan:
    """Summary of a plan; the inputs of each shard are one row group of a Parquet file."""

    media: Media
    classes: list[str]
    """Class name of each label."""
    inputs: int
    samples_per_shard: int
    shards: int
    fingerprint: str
    """Hex SHA-256 over path, key, class and span of every input, in path order."""
    ignored: dict[str, int]
    """Number of skipped files by kind."""
    numbers: list[int] = field(default_factory=list)
    """Numbers in the file names of the shards; empty for 0, 1, ..."""
    spans: int = 0
    """Number of spans of files that a list names."""


def readable(path: str) -> str:
    r"""A path as plain text: bytes that are not UTF-8 become `\xNN`, backslashes `\\`."""
    return path_bytes(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def readable_bytes(source: str) -> bytes:
    """The bytes of a path from `readable`."""
    return _ESCAPED.sub(lambda escaped: bytes.fromhex(escaped[1].decode()) if escaped[1] else b"\\", source.encode())


def default_samples_per_shard(media: Media, inputs: int, are_cut: bool = False) -> int:
    """1/32 of the inputs, so that small datasets keep all cores busy, within limits for large ones.

    Files that are cut are long: even two should keep two cores busy.
    """
    low, high = (32, 1024) if media == "images" else (1, 16) if are_cut else (4, 256)
    return min(max(low, -(-inputs // 32)), high)


def _store(database: sqlite3.Connection, sources: Iterable[Source], seed: int) -> None:
    database.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA temp_store = FILE")
    database.execute(
        "CREATE TABLE input (path BLOB, key TEXT, class BLOB, media TEXT, first INTEGER, bytes INTEGER, fault TEXT, "
        "start INTEGER, end INTEGER, rank BLOB, shard INTEGER, owner BLOB DEFAULT X'', kept INTEGER DEFAULT 0)"
    )
    rows = (
        (
            *(path_bytes(s.path), s.key, path_bytes(s.class_name), s.media, *(s.span or (None, None)), s.fault),
            *(s.cut or (None, None)),
            rank,
        )
        for s in tqdm(sources, desc="listing", unit=" inputs", delay=3)
        for rank in (shuffle_rank(s.key, seed),)
    )
    columns = "path, key, class, media, first, bytes, fault, start, end, rank"
    database.executemany(f"INSERT INTO input ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    database.execute(  # a file that is listed as a whole and in spans is one input
        "UPDATE input SET start = 0 WHERE start IS NULL AND path IN (SELECT path FROM input WHERE start IS NOT NULL)"
    )


def _only_media(database: sqlite3.Connection, uri: str, ignored: dict[str, int]) -> Media:
    kinds = [media for (media,) in database.execute("SELECT DISTINCT media FROM input")]
    if len(kinds) > 1:
        raise UserError(f"{uri} holds both clips and images: choose with --media clips or --media images")
    if not kinds:
        skipped = ", ".join(f"{count} {kind}" for kind, count in ignored.items()) or "nothing"
        raise UserError(f"{uri} holds no input of the requested kind; it holds {skipped}")
    return next(media for media in get_args(Media) if media == kinds[0])


def _check_keys(database: sqlite3.Connection, uri: str) -> None:
    """Check that no span of a file has the key of another file."""
    same = database.execute(
        "SELECT a.path, b.path FROM input a JOIN input b ON b.start IS NULL AND "
        "b.key = a.key || '_' || a.start || '_' || ifnull(a.end, 'end') WHERE a.start IS NOT NULL LIMIT 1"
    ).fetchone()
    if same is not None:
        span, whole = (readable(path_text(path)) for path in same)
        raise UserError(f"{uri}: a span of {span} would have the same key as {whole}: rename one of these files")


Classes = dict[str, tuple[str, int]]
"""Name and label of each class folder."""


PlanRow = tuple[bytes, str, str, int, int | None, int | None, str, bytes, int, list[dict[str, Any]]]
"""An input in a plan file: path, key, class name, label, first byte, bytes, fault, owner, kept, cuts."""


class PlanWriter:
    """Writes the inputs of each shard as one row group of a Parquet file."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, inputs: Iterable[PlanRow]) -> None:
        """Append a shard."""
        rows = list(inputs)
        columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        self._writer.write_table(pa.table(arrays, _SCHEMA), row_group_size=len(rows) or None)


@contextmanager
def plan_writer(target: Path) -> Iterator[PlanWriter]:
    """Write a plan to the file `target`."""
    with pq.ParquetWriter(target, _SCHEMA, write_statistics=False) as writer:
        yield PlanWriter(writer)


class ListedInputs:
    """The listed inputs of a job, in the table `input` of a database."""

    def __init__(self, database: sqlite3.Connection, listing: Listing, seed: int, are_cut: bool) -> None:
        _store(database, listing.sources, seed)
        self.database = database
        self.ignored = dict(sorted(listing.ignored.items()))
        self.media = _only_media(database, listing.uri, self.ignored)
        self.spans: int = database.execute("SELECT COUNT(start) FROM input").fetchone()[0]
        """Number of spans of files that a list names."""
        self.are_cut = are_cut or self.spans > 0
        """Whether files are cut into segments."""
        self._names = listing.names
        if self.spans:
            _check_keys(database, listing.uri)

    def count(self, where: str = "TRUE") -> int:
        """Number of inputs for which `where` is true; all spans of one file are one input."""
        files = "COUNT(*) - COUNT(start) + COUNT(DISTINCT CASE WHEN start IS NOT NULL THEN path END)"
        count: int = self.database.execute(f"SELECT {files} FROM input WHERE {where}").fetchone()[0]
        return count

    def samples_per_shard(self, asked: int | None) -> int:
        """The number that was asked for, or the default for all inputs."""
        return asked or default_samples_per_shard(self.media, self.count(), self.are_cut)

    def classes(self, where: str = "TRUE") -> dict[str, str]:
        """Class names of the folders of the inputs for which `where` is true, sorted by folder."""
        found = self.database.execute(f"SELECT DISTINCT class FROM input WHERE {where} ORDER BY class")
        folders = [path_text(name) for (name,) in found]
        return {name: readable(self._names.get(name, name)) for name in folders if name != NO_CLASS}

    def fingerprint(self) -> str:
        """Hex SHA-256 over path, key, class and span of every input without a shard, in path order."""
        digest = hashlib.sha256()
        columns = "path, key, class, start, end"
        rows = self.database.execute(f"SELECT {columns} FROM input WHERE shard IS NULL ORDER BY {columns}")
        for path, key, class_name, start, end in rows:
            cut = b"" if start is None else b"%d\0%d\n" % (start, -1 if end is None else end)
            digest.update(b"%b\0%b\0%b\n%b" % (path, key.encode(), class_name, cut))
        return digest.hexdigest()

    def planned(self, where: str, classes: Classes) -> Iterator[PlanRow]:
        """The inputs for which `where` is true, in the order of the dataset; all spans of one file are one input."""
        columns = "start, end, path, key, class, first, bytes, fault, owner, kept"
        rows = self.database.execute(
            f"SELECT {columns} FROM input WHERE {where} ORDER BY rank, key, path, start, end IS NULL, end, class"
        )

        def class_of(folder: bytes) -> tuple[str, int]:
            return classes.get(path_text(folder), (NO_CLASS, -1))

        for _, same in groupby(enumerate(rows), key=lambda row: (row[1][2], row[0] if row[1][0] is None else -1)):
            of_file = [row for _, row in same]
            start, _, path, key, folder, *others = of_file[0]
            spans = [] if start is None else [Cut(row[0], row[1], *class_of(row[4]))._asdict() for row in of_file]
            yield (path, key, *class_of(folder), *others, spans)

    def plan_new(self, writer: PlanWriter, classes: Classes, samples_per_shard: int) -> int:
        """Spread the inputs without a shard over shards of `samples_per_shard` keys; returns the number of shards.

        Inputs are ordered by a keyed hash of their sample keys. Inputs with the same key follow each other in path
        order: the first that decodes becomes the sample, the others are rejects.
        """
        by_key = groupby(self.planned("shard IS NULL", classes), key=itemgetter(1))
        shards = 0
        while rows := [row for _, same in islice(by_key, samples_per_shard) for row in same]:
            writer.write(rows)
            shards += 1
        return shards


@contextmanager
def listed_inputs(listing: Listing, seed: int, are_cut: bool = False) -> Iterator[ListedInputs]:
    """Read a listing into a database on disk; `are_cut` says that files are cut into segments.

    Raises:
        UserError: there are no inputs, or both clips and images, or no room for temporary files.
    """
    with temporary_database() as database:
        yield ListedInputs(database, listing, seed, are_cut)


def make_plan(listing: Listing, seed: int, samples_per_shard: int | None, target: Path, are_cut: bool = False) -> Plan:
    """Write the shuffled inputs to the Parquet file `target`, divided into shards.

    `are_cut` says that files are cut into segments.

    Raises:
        UserError: there are no inputs, or both clips and images, or no room for temporary files.
        OSError: `target` cannot be written.
    """
    with listed_inputs(listing, seed, are_cut) as inputs:
        return plan_all(inputs, samples_per_shard, target)


def plan_all(inputs: ListedInputs, samples_per_shard: int | None, target: Path) -> Plan:
    """Plan a new dataset of all listed inputs; see `make_plan`."""
    names = inputs.classes()
    per_shard = inputs.samples_per_shard(samples_per_shard)
    classes = {folder: (name, label) for label, (folder, name) in enumerate(names.items())}
    with plan_writer(target) as writer:
        shards = inputs.plan_new(writer, classes, per_shard)
    return Plan(
        media=inputs.media,
        classes=list(names.values()),
        inputs=inputs.count(),
        samples_per_shard=per_shard,
        shards=shards,
        fingerprint=inputs.fingerprint(),
        ignored=inputs.ignored,
        spans=inputs.spans,
    )


def read_shard_plan(storage: Storage, name: str, shard: int) -> Iterator[Planned]:
    """The inputs of one shard, in the order in which they are written."""
    with storage.parquet(name) as file:
        rows = file.read_row_group(shard).to_pylist()
    for row in rows:
        span = None if row["first_byte"] is None else (row["first_byte"], row["bytes"])
        path, fault = path_text(row["path"]), row.get("fault", "")  # plans of earlier versions have less
        owner, kept = path_text(row.get("owner", b"")), bool(row.get("kept", 0))
        cuts = tuple(Cut(**cut) for cut in row.get("cuts", ()))
        yield Planned(path, row["key"], row["class_name"], row["label"], span, fault, owner, kept, cuts)
