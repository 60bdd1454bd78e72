"""Progress of an unfinished job: index rows, rejects and a summary of each finished shard."""

import json
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import INDEX_SCHEMA, PARTS, REJECTS_SCHEMA, with_columns
from pipeline.storage import Storage

PREVIOUS = f"{PARTS}/previous"
"""Folder with the parts that shards of a finished dataset had before a job began to change it."""


@dataclass(frozen=True)
class Part:
    """Summary of a finished shard."""

    name: str
    inputs: int
    samples: int
    frames: int
    bytes: int
    sha256: str
    reasons: dict[str, int]
    """Rejects by reason."""
    left_out: dict[str, int]
    """Parts of inputs that are left out by a rule, by the rule."""
    seconds: dict[str, float]
    """Duration of each stage: fetch, decode, check, write."""
    max_timestamp_error_s: float
    """Largest difference between the time that a frame shows and the time that it should show."""

    @property
    def rejects(self) -> int:
        """Number of rejected inputs and segments."""
        return sum(self.reasons.values())


def _index_part(name: str, folder: str) -> str:
    return f"{folder}/{name}.parquet"


def _rejects_part(name: str, folder: str) -> str:
    return f"{folder}/{name}.rejects.parquet"


def read_part(out: Storage, name: str, folder: str = PARTS) -> Part | None:
    """The part of shard `name`; None if the shard is not finished or, in the folder PREVIOUS, was damaged."""
    if out.size(_index_part(name, folder)) is None:
        return None
    with out.parquet(_index_part(name, folder)) as file:
        fields = json.loads(file.schema_arrow.metadata[b"part"])
    part = Part(**{"left_out": {}, **fields}) if fields else None  # parts of earlier versions left nothing out
    if part is None or folder == PREVIOUS:
        return part
    whole = (out.size(f"{name}.tar") or 0) == part.bytes and (out.size(f"{name}.idx") is not None) == bool(part.samples)
    return part if whole else None


def read_index_part(out: Storage, name: str, folder: str = PARTS) -> pa.Table:
    """Index rows of a finished shard."""
    with out.parquet(_index_part(name, folder)) as file:
        return with_columns(file.read(), INDEX_SCHEMA)


def read_rejects_part(out: Storage, name: str, folder: str = PARTS) -> pa.Table:
    """Rejects of a finished shard."""
    with out.parquet(_rejects_part(name, folder)) as file:
        return with_columns(file.read(), REJECTS_SCHEMA)


def has_part(out: Storage, name: str, folder: str) -> bool:
    """Whether there is a part of shard `name`."""
    return out.size(_index_part(name, folder)) is not None


def write_part(
    out: Storage, name: str, part: Part | None, rows: pa.Table, rejects: pa.Table, folder: str = PARTS
) -> None:
    """Write the part of a shard; the index rows come last, so if they exist the shard is complete."""
    with out.atomic_write(_rejects_part(name, folder)) as path:
        pq.write_table(rejects, path)
    with out.atomic_write(_index_part(name, folder)) as path:
        summary = json.dumps(part and asdict(part))
        pq.write_table(rows.replace_schema_metadata({"part": summary}), path)
