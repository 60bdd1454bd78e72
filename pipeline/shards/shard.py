"""Write one shard: decode its inputs, then write the tar and its part of the index atomically."""

import functools
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import INDEX_SCHEMA, PARTS, REJECTS_SCHEMA
from pipeline.files import sha256_file
from pipeline.record import Member, Sample, ShardWriter, dali_index, dali_index_file, frame_names, members
from pipeline.shards.decode import Decoded, Inputs, Seconds, decode, timed
from pipeline.shards.parts import PREVIOUS, Part, has_part, read_index_part, read_part, write_part
from pipeline.shards.plan import Planned, read_shard_plan, readable
from pipeline.shards.previous import Entry, PreviousShard, open_previous
from pipeline.shards.rejects import Rejected
from pipeline.shards.triplets import triplet_samples
from pipeline.spec import Reason, TripletSettings
from pipeline.storage import Storage

Layout = Literal["frames", "triplets"]

PLAN = f"{PARTS}/plan.parquet"


@dataclass(frozen=True)
class ShardTask:
    """The settings that all shards of a job share."""

    inputs: Inputs
    out: Storage
    name: str
    seed: int
    layout: Layout
    triplets: TripletSettings
    numbers: tuple[int, ...] = ()
    """As in the plan."""

    def shard_name(self, shard: int) -> str:
        """File name of a shard of the plan without extension."""
        return f"{self.name}-{self.numbers[shard] if self.numbers else shard:06d}"


@dataclass
class Stages:
    """Measurements while a shard is written."""

    seconds: Seconds = field(default_factory=lambda: Seconds(float))
    max_timestamp_error_s: float = 0.0


class Resolved(NamedTuple):
    """The result of the inputs with one key."""

    entries: list[Entry]
    rejects: list[dict[str, str]]
    fresh: bool
    """Whether the entries were decoded in this run."""


class _Written(NamedTuple):
    rows: list[dict[str, Any]]
    """Complete index rows."""
    members: list[tuple[str, list[Member]]]
    """Key and tar members of each sample."""
    rejects: list[dict[str, str]]


def _entries(source: Planned, decoded: Decoded, task: ShardTask) -> list[Entry]:
    is_clip = "fps" in decoded.fields
    names = frame_names(len(decoded.jpegs)) if is_clip else ["jpg"]
    sample = Sample(
        key=source.key,
        source=readable(source.path),
        label=source.label,
        class_name=source.class_name,
        size=decoded.size,
        frames=list(zip(names, decoded.jpegs, strict=True)),
        fields=decoded.fields,
    )
    samples = [sample] if task.layout == "frames" else triplet_samples(sample, task.seed, task.triplets)
    row = {
        "label": sample.label,
        "class_name": sample.class_name,
        "width": sample.size[0],
        "height": sample.size[1],
        "duration_s": len(decoded.jpegs) / decoded.fields["fps"] if is_clip else 0.0,
        "source": sample.source,
    }
    return [Entry({**row, "key": s.key, "num_frames": len(s.frames)}, functools.partial(members, s)) for s in samples]


def _reject(source: Planned, reason: Reason, detail: str) -> dict[str, str]:
    return {"source": readable(source.path), "reason": reason.value, "detail": detail}


def _resolve(same_key: Iterable[Planned], task: ShardTask, previous: PreviousShard | None, stages: Stages) -> Resolved:
    """Decode the inputs of one key: the first that decodes is the sample, the others are rejects."""
    entries: list[Entry] = []
    kept: Planned | None = None
    rejects = []
    fresh = False
    for source in same_key:
        if owner := source.owner or (kept and kept.path):
            detail = f"the key {source.key} belongs to {readable(owner)}"
            rejects.append(_reject(source, Reason.DUPLICATE_KEY, detail))
            continue
        if previous is not None and source.kept:
            rejects += previous.rejects(readable(source.path))
        if previous is not None and (entries := previous.entries(readable(source.path))):
            kept = source
            continue
        if source.kept:
            continue
        try:
            decoded = decode(task.inputs, source, stages.seconds)
        except Rejected as error:
            rejects.append(_reject(source, error.reason, error.detail))
            continue
        entries, kept, fresh = _entries(source, decoded, task), source, True
        if fps := decoded.fields.get("fps"):
            errors_s = (abs(time_s - frame / fps) for frame, time_s in enumerate(decoded.fields["times_s"]))
            stages.max_timestamp_error_s = max(stages.max_timestamp_error_s, *errors_s)
    return Resolved(entries, rejects, fresh)


def _by_reason(rejects: list[dict[str, str]]) -> dict[str, int]:
    return dict(sorted(Counter(reject["reason"] for reject in rejects).items()))


def _rewrite_rejects(out: Storage, part: Part, folder: str, rejects: list[dict[str, str]]) -> None:
    """Write the part of a shard whose samples stay as they are; its previous part is in `folder`."""
    rows = read_index_part(out, part.name, folder)
    inputs = len(rejects) + pc.count_distinct(rows["source"]).as_py()
    part = replace(part, inputs=inputs, reasons=_by_reason(rejects))
    write_part(out, part.name, part, rows, pa.Table.from_pylist(rejects, REJECTS_SCHEMA))


def _write_tar(tar: Path, file: str, outcomes: Iterable[Resolved], stages: Stages) -> _Written:
    written = _Written([], [], [])
    with tar.open("wb") as stream:
        writer = ShardWriter(stream)
        for outcome in outcomes:
            written.rejects.extend(outcome.rejects)
            for entry in outcome.entries:
                contents = entry.members()
                with timed(stages.seconds, "write"):
                    spans = writer.write(entry.row["key"], contents)
                frames = spans[: entry.row["num_frames"]]
                row = {
                    "shard": file,
                    "frame_offset": [m.offset for m in frames],
                    "frame_size": [m.size for m in frames],
                }
                written.rows.append({**entry.row, **row})
                written.members.append((entry.row["key"], spans))
        with timed(stages.seconds, "write"):
            writer.close()
    return written


def write_shard(shard: int, task: ShardTask, retry: bool = False) -> None:
    """Write `NAME.tar`, `NAME.idx` and the part of one shard; a shard without samples has only the part.

    A finished shard is skipped; with `retry` its rejects are decoded again, and its samples are copied. So are those of
    a shard of a finished dataset that a job changes.

    Raises:
        OSError: the output cannot be written.
    """
    name = task.shard_name(shard)
    file = f"{name}.tar"
    finished = read_part(task.out, name)
    if finished is not None and not retry:
        return
    folder = PREVIOUS if finished is None else PARTS
    finished = finished or read_part(task.out, name, PREVIOUS)
    stages = Stages(max_timestamp_error_s=finished.max_timestamp_error_s if finished else 0.0)
    planned = list(read_shard_plan(task.out, PLAN, shard))
    with ExitStack() as stack:
        previous = None
        if has_part(task.out, name, folder):
            sources = {readable(source.path) for source in planned}
            previous = stack.enter_context(open_previous(task.out, name, folder, sources))
        groups = groupby(planned, key=lambda source: source.key)
        outcomes: Iterable[Resolved] = (_resolve(same, task, previous, stages) for _, same in groups)
        if finished is not None:
            outcomes = list(outcomes)
            samples = sum(len(outcome.entries) for outcome in outcomes)
            if samples == finished.samples and not any(outcome.fresh for outcome in outcomes):
                _rewrite_rejects(task.out, finished, folder, [reject for o in outcomes for reject in o.rejects])
                return
        with task.out.atomic_write(file) as path:
            written = _write_tar(path, file, outcomes, stages)
            with timed(stages.seconds, "write"):
                size, digest = path.stat().st_size, sha256_file(path)
            closing = time.perf_counter()
        stages.seconds["write"] += time.perf_counter() - closing  # fsync and rename, or upload
    if written.rows:
        task.out.write(dali_index_file(file), dali_index(written.members).encode())
    else:
        task.out.remove(file)
        task.out.remove(dali_index_file(file))
        size = 0
    part = Part(
        name=name,
        inputs=len(written.rejects) + len({row["source"] for row in written.rows}),
        samples=len(written.rows),
        frames=sum(row["num_frames"] for row in written.rows),
        bytes=size,
        sha256=digest,
        reasons=_by_reason(written.rejects),
        seconds=dict(stages.seconds),
        max_timestamp_error_s=stages.max_timestamp_error_s,
    )
    rows = pa.Table.from_pylist(written.rows, INDEX_SCHEMA)
    write_part(task.out, name, part, rows, pa.Table.from_pylist(written.rejects, REJECTS_SCHEMA))
