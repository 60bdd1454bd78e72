"""The plan: which inputs go into which shard, a function of their paths and a seed, computed in bounded memory."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline.paths import path_bytes, path_text
from pipeline.record import shuffle_rank
from pipeline.settings import UserError
from pipeline.shards.segments import Cut
from pipeline.shards.sources import NO_CLASS, Listing, Media, Source
from pipeline.storage import Storage
from pipeline.temporary import temporary_database

_CACHE_KB = 16_000
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
        ("cuts", pa.list_(pa.struct(_CUT))),
    ]
)


class Planned(NamedTuple):
    """One input of a shard. `path` is as in pipeline/paths.py; without a class, `class_name` is "" and `label` -1."""

    path: str
    key: str
    class_name: str
    label: int
    span: tuple[int, int] | None
    fault: str = ""
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
    """Hex SHA-256 over path, key and class of every input, in path order."""
    ignored: dict[str, int]
    """Number of skipped files by kind."""
    spans: int = 0
    """Number of spans of files that a list names."""


def readable(path: str) -> str:
    r"""A path as plain text: bytes that are not UTF-8 become `\xNN`, backslashes `\\`."""
    return path_bytes(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


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
        "start INTEGER, end INTEGER, rank BLOB)"
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
    database.executemany("INSERT INTO input VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _only_media(database: sqlite3.Connection, uri: str, ignored: dict[str, int]) -> Media:
    kinds = [media for (media,) in database.execute("SELECT DISTINCT media FROM input")]
    if len(kinds) > 1:
        raise UserError(f"{uri} holds both clips and images: choose with --media clips or --media images")
    if not kinds:
        skipped = ", ".join(f"{count} {kind}" for kind, count in ignored.items()) or "nothing"
        raise UserError(f"{uri} holds no input of the requested kind; it holds {skipped}")
    return next(media for media in get_args(Media) if media == kinds[0])


def _fingerprint(database: sqlite3.Connection) -> str:
    digest = hashlib.sha256()
    rows = database.execute("SELECT path, key, class, start, end FROM input ORDER BY path, key, class, start, end")
    for path, key, class_name, start, end in rows:
        cut = b"" if start is None else b"%d\0%d\n" % (start, -1 if end is None else end)
        digest.update(b"%b\0%b\0%b\n%b" % (path, key.encode(), class_name, cut))
    return digest.hexdigest()


def _check_keys(database: sqlite3.Connection, uri: str) -> None:
    """Check that no span of a file has the key of another file."""
    same = database.execute(
        "SELECT a.path, b.path FROM input a JOIN input b ON b.start IS NULL AND "
        "b.key = a.key || '_' || a.start || '_' || ifnull(a.end, 'end') WHERE a.start IS NOT NULL LIMIT 1"
    ).fetchone()
    if same is not None:
        span, whole = (readable(path_text(path)) for path in same)
        raise UserError(f"{uri}: a span of {span} would have the same key as {whole}: rename one of these files")


_Row = tuple[bytes, str, bytes, int | None, int | None, str, int | None, int | None]


def _one_of_each_file(rows: Iterable[_Row]) -> Iterator[tuple[_Row, list[_Row]]]:
    """Each input with its spans: all spans of one file are one input, all other rows are one each."""
    for _, same in groupby(enumerate(rows), key=lambda row: (row[1][0], row[0] if row[1][6] is None else -1)):
        of_file = [row for _, row in same]
        yield of_file[0], [row for row in of_file if row[6] is not None]


def make_plan(listing: Listing, seed: int, samples_per_shard: int | None, target: Path, are_cut: bool = False) -> Plan:
    """Write the shuffled inputs to the Parquet file `target`, divided into shards.

    Inputs are ordered by a keyed hash of their sample keys. Inputs with the same key follow each other in path order:
    the first that decodes becomes the sample, the others are rejects. All spans of one file are one input. `are_cut`
    says that files are cut into segments.

    Raises:
        UserError: there are no inputs, or both clips and images, or no room for temporary files.
        OSError: `target` cannot be written.
    """
    with temporary_database() as database:
        _store(database, listing.sources, seed)
        ignored = dict(sorted(listing.ignored.items()))
        media = _only_media(database, listing.uri, ignored)
        folders = [path_text(name) for (name,) in database.execute("SELECT DISTINCT class FROM input ORDER BY class")]
        labels = {name: label for label, name in enumerate(name for name in folders if name != NO_CLASS)}
        names = {name: readable(listing.names.get(name, name)) for name in labels}
        inputs, keys, spans = database.execute(
            "SELECT COUNT(*) - COUNT(start) + COUNT(DISTINCT CASE WHEN start IS NOT NULL THEN path END), "
            "COUNT(DISTINCT key), COUNT(start) FROM input"
        ).fetchone()
        _check_keys(database, listing.uri)
        per_shard = samples_per_shard or default_samples_per_shard(media, inputs, are_cut or spans > 0)
        ordered = database.execute(
            "SELECT path, key, class, first, bytes, fault, start, end FROM input "
            "ORDER BY rank, key, path, start, end IS NULL, end, class"
        )
        by_key = groupby(ordered, key=lambda row: row[1])

        def class_of(row: _Row) -> tuple[str, int]:
            name = path_text(row[2])
            return names.get(name, NO_CLASS), labels.get(name, -1)

        with pq.ParquetWriter(target, _SCHEMA, write_statistics=False) as writer:
            for _ in range(-(-keys // per_shard)):
                of_shard = [pair for _, same in islice(by_key, per_shard) for pair in _one_of_each_file(same)]
                paths, of_keys, _, firsts, sizes, faults, *_ = zip(*(row for row, _ in of_shard), strict=True)
                class_names, of_labels = zip(*(class_of(row) for row, _ in of_shard), strict=True)
                columns = [
                    pa.array(paths, pa.binary()),
                    pa.array(of_keys),
                    pa.array(class_names),
                    pa.array(of_labels, pa.int32()),
                    pa.array(firsts, pa.int64()),
                    pa.array(sizes, pa.int64()),
                    pa.array(faults),
                    pa.array(
                        [
                            [Cut(row[6] or 0, row[7], *class_of(row))._asdict() for row in spans]
                            for _, spans in of_shard
                        ],
                        _SCHEMA.field("cuts").type,
                    ),
                ]
                writer.write_table(pa.table(columns, _SCHEMA), row_group_size=len(of_shard))
        return Plan(
            media=media,
            classes=[names[name] for name in labels],
            inputs=inputs,
            samples_per_shard=per_shard,
            shards=-(-keys // per_shard),
            fingerprint=_fingerprint(database),
            ignored=ignored,
            spans=spans,
        )


def read_shard_plan(storage: Storage, name: str, shard: int) -> Iterator[Planned]:
    """The inputs of one shard, in the order in which they are written."""
    with storage.parquet(name) as file:
        rows = file.read_row_group(shard).to_pylist()
    for row in rows:
        span = None if row["first_byte"] is None else (row["first_byte"], row["bytes"])
        path, fault = path_text(row["path"]), row.get("fault", "")  # plans of earlier versions have no faults, no cuts
        cuts = tuple(Cut(**cut) for cut in row.get("cuts", ()))
        yield Planned(path, row["key"], row["class_name"], row["label"], span, fault, cuts)
