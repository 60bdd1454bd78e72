"""Merge the parts of a job, and what it leaves of the dataset that it changes, into index, rejects and manifest."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
    with_columns,
)
from pipeline.files import as_json, sha256_file
from pipeline.shards.parts import Part, read_index_part, read_rejects_part
from pipeline.storage import Storage

JOB_REPORT = "job.json"
"""Durations and machine of the job; the only file that differs between runs."""
_SHARDS = b"shards"
"""Metadata of the rejects: the shard number of each row group."""


def shard_number(name: str) -> int:
    """The number in the name of a shard, with or without extension."""
    return int(name.removesuffix(".tar").rpartition("-")[2])


def shards_of_index(file: pq.ParquetFile) -> list[int]:
    """Shard number of each row group of the index."""
    column = INDEX_SCHEMA.get_field_index("shard")
    groups = (file.metadata.row_group(group).column(column) for group in range(file.num_row_groups))
    return [shard_number(group.statistics.min) for group in groups]


def shards_of_rejects(file: pq.ParquetFile) -> list[int] | None:
    """Shard number of each row group of the rejects; None if the file was written before these were recorded."""
    recorded = (file.metadata.metadata or {}).get(_SHARDS)
    return json.loads(recorded) if recorded else None


class Base(NamedTuple):
    """A finished dataset that a job changes."""

    manifest: Manifest
    shards_of_rejects: list[int]
    """Shard number of each row group of its rejects."""


class _Table(NamedTuple):
    """A merged table: hex SHA-256, rows, and the sum of `num_frames`."""

    sha256: str
    rows: int
    frames: int


def _merge(out: Storage, name: str, schema: pa.Schema, tables: Iterable[tuple[int, pa.Table]]) -> _Table:
    """Write the table of each shard number as a row group of one file."""
    rows = frames = 0
    numbers = []
    with out.atomic_write(name) as path:
        with pq.ParquetWriter(path, schema) as writer:
            for number, table in tables:
                if table.num_rows:
                    writer.write_table(table)
                    numbers.append(number)
                    rows += table.num_rows
                    frames += pc.sum(table["num_frames"]).as_py() if name == INDEX else 0
            if name == REJECTS:
                writer.add_key_value_metadata({_SHARDS: json.dumps(numbers)})
        return _Table(sha256_file(path), rows, frames)


def _tables(out: Storage, name: str, base: Base | None, parts: dict[int, Part]) -> Iterator[tuple[int, pa.Table]]:
    """Shard number and rows of each shard: from its part, or else from the table of the dataset that is changed."""
    read_new, schema = (read_index_part, INDEX_SCHEMA) if name == INDEX else (read_rejects_part, REJECTS_SCHEMA)
    with ExitStack() as stack:
        groups: dict[int, int] = {}
        if base is not None:
            file = stack.enter_context(out.parquet(name))
            numbers = shards_of_index(file) if name == INDEX else shards_of_rejects(file)
            numbers = base.shards_of_rejects if numbers is None else numbers
            groups = {number: group for group, number in enumerate(numbers)}
        for number in sorted(groups.keys() | parts.keys()):
            if (part := parts.get(number)) is None:
                yield number, with_columns(file.read_row_group(groups[number]), schema)
            elif part.samples if name == INDEX else part.reasons:
                yield number, read_new(out, part.name)


def _shards(base: Base | None, parts: dict[int, Part]) -> list[Shard]:
    old = {} if base is None else {shard_number(shard.file): shard for shard in base.manifest.shards}
    new = {
        number: Shard(file=f"{part.name}.tar", samples=part.samples, bytes=part.bytes, sha256=part.sha256)
        for number, part in parts.items()
    }
    return [shard for _, shard in sorted({**old, **new}.items()) if shard.samples]


def publish(
    out: Storage, base: Base | None, written: list[Part], header: dict[str, Any], report: dict[str, Any]
) -> Manifest:
    """Merge the parts, in shard order, then write the manifest, which makes the dataset valid.

    Shards of `base` without a part stay as they are. `header` holds the fields of the manifest that do not depend on
    the parts. If it is interrupted, it can be repeated with the same result.
    """
    parts = {shard_number(part.name): part for part in written}
    if base is not None:
        out.remove(MANIFEST)  # index and manifest are not replaced at once
    index = _merge(out, INDEX, INDEX_SCHEMA, _tables(out, INDEX, base, parts))
    rejects = _merge(out, REJECTS, REJECTS_SCHEMA, _tables(out, REJECTS, base, parts))
    manifest = Manifest(
        **header,
        tables={INDEX: index.sha256, REJECTS: rejects.sha256},
        samples=index.rows,
        frames=index.frames,
        rejects=rejects.rows,
        shards=_shards(base, parts),
    )
    out.write(JOB_REPORT, as_json(report))
    out.write(MANIFEST, manifest.to_json())
    out.remove(JOB)  # first, so that the other parts are complete as long as it exists
    out.remove(PARTS)
    return manifest
