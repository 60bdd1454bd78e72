"""One shard, one task: read its inputs, check every JPEG, write the tar and its part of the index atomically."""

import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import INDEX_SCHEMA
from pipeline.files import atomic_path, sha256_file
from pipeline.shards.frames import FrameSettings, extract_frames
from pipeline.shards.images import ImageSettings, check_jpeg, encode_image
from pipeline.shards.plan import Reject, ShardPlan
from pipeline.shards.record import Member, Sample, ShardWriter, write_dali_index
from pipeline.shards.rejects import Reason, Rejected
from pipeline.shards.sources import Source

PARTS = ".parts"
"""Folder inside the dataset that holds the finished parts of the index until the job is done."""


@dataclass(frozen=True)
class ShardTask:
    """What all shards of a job have in common."""

    data: Path
    out: Path
    settings: FrameSettings | ImageSettings


@dataclass(frozen=True)
class Part:
    """A finished shard: what the manifest needs, and its rejects; kept as metadata of its index part."""

    name: str
    samples: int
    frames: int
    bytes: int
    sha256: str
    rejects: list[Reject]
    seconds: dict[str, float]
    """Time in each stage: read (decode, encode), check, write."""


def part_path(out: Path, name: str) -> Path:
    """Where the index part of shard `name` lies while the job runs."""
    return out / PARTS / f"{name}.parquet"


def read_part(out: Path, name: str) -> Part | None:
    """The finished part of shard `name`, or None if the shard has yet to be written."""
    path = part_path(out, name)
    if not path.is_file():
        return None
    fields = json.loads(pq.read_schema(path).metadata[b"part"])
    part = Part(**{**fields, "rejects": [Reject(**reject) for reject in fields["rejects"]]})
    tar = out / f"{name}.tar"
    written = tar.stat().st_size if tar.is_file() else 0
    return part if written == part.bytes else None


def read_sample(source: Source, task: ShardTask, seconds: dict[str, float]) -> Sample:
    """Decode one input and check every JPEG by decoding it; adds the time of both stages to `seconds`.

    Raises:
        Rejected: the input cannot be used.
    """
    path, settings = task.data / source.path, task.settings
    started = time.perf_counter()
    if isinstance(settings, FrameSettings):
        jpegs = extract_frames(path, settings)
        fields: dict[str, Any] = {"fps": settings.fps, "times_s": [i / settings.fps for i in range(len(jpegs))]}
    else:
        jpeg, made = encode_image(path, settings)
        jpegs, fields = [jpeg], {"encoding": made}
    decoded = time.perf_counter()
    sizes = {check_jpeg(jpeg) for jpeg in jpegs}
    seconds["read"] += decoded - started
    seconds["check"] += time.perf_counter() - decoded
    if len(sizes) > 1:
        raise Rejected(Reason.DECODE_ERROR, f"the picture size changes within the clip: {sorted(sizes)}")
    return Sample(
        key=source.key,
        source=source.path,
        label=source.label,
        class_name=source.class_name,
        jpegs=jpegs,
        is_clip=isinstance(settings, FrameSettings),
        size=sizes.pop(),
        fields=fields,
    )


def _index_row(sample: Sample, written: list[Member], tar_name: str) -> dict[str, Any]:
    frames = written[: len(sample.jpegs)]
    return {
        "key": sample.key,
        "shard": tar_name,
        "label": sample.label,
        "class_name": sample.class_name,
        "num_frames": len(frames),
        "frame_offset": [member.offset for member in frames],
        "frame_size": [member.size for member in frames],
        "width": sample.size[0],
        "height": sample.size[1],
        "duration_s": len(frames) / sample.fields["fps"] if sample.is_clip else 0.0,
        "source": sample.source,
    }


def write_shard(plan: ShardPlan, task: ShardTask) -> Part:
    """Write `NAME.tar`, `NAME.idx` and the index part of one shard; a shard without samples leaves only the part.

    The part is written last: where it is, the shard is complete.

    Raises:
        OSError: the output cannot be written.
    """
    tar = task.out / f"{plan.name}.tar"
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    written: list[tuple[str, list[Member]]] = []
    seconds: defaultdict[str, float] = defaultdict(float)
    with atomic_path(tar) as temporary:
        with temporary.open("wb") as stream:
            writer = ShardWriter(stream)
            for source in plan.sources:
                try:
                    sample = read_sample(source, task, seconds)
                except Rejected as error:
                    rejects.append(Reject(source.path, error.reason.value, error.detail))
                    continue
                started = time.perf_counter()
                spans = writer.write(sample)
                seconds["write"] += time.perf_counter() - started
                written.append((sample.key, spans))
                rows.append(_index_row(sample, spans, tar.name))
            writer.close()
        size, digest = temporary.stat().st_size, sha256_file(temporary)
    if rows:
        with atomic_path(tar.with_suffix(".idx")) as temporary:
            write_dali_index(temporary, written)
    else:
        tar.unlink()
        size = 0
    frames = sum(row["num_frames"] for row in rows)
    part = Part(plan.name, len(rows), frames, size, digest, rejects, dict(seconds))
    schema = INDEX_SCHEMA.with_metadata({"part": json.dumps(asdict(part))})
    with atomic_path(part_path(task.out, plan.name)) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)
    return part
