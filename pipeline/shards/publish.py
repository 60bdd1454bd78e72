"""Merge the parts of a job into index, rejects and manifest, or split a finished dataset into parts for a retry."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset import (
    INDEX,
    INDEX_SCHEMA,
    MANIFEST,
    PARTS,
    REJECTS,
    REJECTS_SCHEMA,
    Manifest,
    Shard,
    with_columns,
)
from pipeline.files import as_json, sha256_file
from pipeline.shards.parts import Part, read_index_part, read_rejects_part, write_part
from pipeline.shards.plan import read_shard_plan, readable
from pipeline.shards.shard import PLAN, ShardTask
from pipeline.storage import Storage

JOB_REPORT = "job.json"
"""Durations and machine of the job; the only file that differs between runs."""


def _merge(out: Storage, name: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> str:
    """Write `tables` as the row groups of one file; returns its hex SHA-256."""
    with out.atomic_write(name) as path:
        with pq.ParquetWriter(path, schema) as writer:
            for table in tables:
                if table.num_rows:
                    writer.write_table(table)
        return sha256_file(path)


def publish(out: Storage, parts: list[Part], header: dict[str, Any], report: dict[str, Any]) -> Manifest:
    """Merge the parts, in shard order, then write the manifest, which makes the dataset valid.

    `header` holds the fields of the manifest that do not depend on the parts.
    """
    index = _merge(out, INDEX, INDEX_SCHEMA, (read_index_part(out, part.name) for part in parts))
    rejected = (read_rejects_part(out, part.name) for part in parts if part.reasons)
    rejects = _merge(out, REJECTS, REJECTS_SCHEMA, rejected)
    manifest = _manifest(header, parts, {INDEX: index, REJECTS: rejects})
    out.write(JOB_REPORT, as_json(report))
    out.write(MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    out.remove(PARTS)
    return manifest


def _manifest(header: dict[str, Any], parts: list[Part], tables: dict[str, str]) -> Manifest:
    return Manifest(
        **header,
        tables=tables,
        samples=sum(part.samples for part in parts),
        frames=sum(part.frames for part in parts),
        rejects=sum(part.rejects for part in parts),
        shards=[
            Shard(file=f"{part.name}.tar", samples=part.samples, bytes=part.bytes, sha256=part.sha256)
            for part in parts
            if part.samples
        ],
    )


def reopen(out: Storage, task: ShardTask, shards: int, manifest: Manifest) -> None:
    """Turn a finished dataset back into an unfinished job whose shards are all finished; its plan must exist.

    Index and rejects have one row group for each shard that has rows.
    """
    samples = {shard.file: shard for shard in manifest.shards}
    with out.parquet(INDEX) as index, out.parquet(REJECTS) as rejects:
        rows = (with_columns(index.read_row_group(g), INDEX_SCHEMA) for g in range(index.num_row_groups))
        rejected = (with_columns(rejects.read_row_group(g), REJECTS_SCHEMA) for g in range(rejects.num_row_groups))
        next_rejects = next(rejected, None)
        for number in range(shards):
            name = task.shard_name(number)
            shard = samples.get(f"{name}.tar")
            planned = [readable(source.path) for source in read_shard_plan(out, PLAN, number)]
            current = REJECTS_SCHEMA.empty_table()
            if next_rejects is not None and next_rejects["source"][0].as_py() in set(planned):
                current, next_rejects = next_rejects, next(rejected, None)
            of_shard = next(rows) if shard else INDEX_SCHEMA.empty_table()
            part = Part(
                name=name,
                inputs=len(planned),
                samples=shard.samples if shard else 0,
                frames=pc.sum(of_shard["num_frames"]).as_py() or 0,
                bytes=shard.bytes if shard else 0,
                sha256=shard.sha256 if shard else "",
                reasons=dict(Counter(current["reason"].to_pylist())),
                left_out={},
                seconds={},
                max_timestamp_error_s=0.0,
            )
            write_part(out, part, of_shard, current)
    out.remove(MANIFEST)
