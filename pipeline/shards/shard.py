"""Write one shard: decode its inputs, then write the tar and its part of the index atomically."""

import functools
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import pyarrow as pa

from pipeline.dataset import INDEX_SCHEMA, PARTS, REJECTS_SCHEMA
from pipeline.files import sha256_file
from pipeline.record import Member, Sample, ShardWriter, dali_index, dali_index_file, frame_names, members
from pipeline.shards.decode import Decoded, DecodedSegment, Discard, Inputs, Seconds, decode, decode_segments, timed
from pipeline.shards.parts import PREVIOUS, Part, has_part, read_index_part, read_part, write_part
from pipeline.shards.plan import Planned, read_shard_plan, readable
from pipeline.shards.previous import Entry, PreviousShard, open_previous
from pipeline.shards.rejects import Rejected
from pipeline.shards.segment_frames import LeftOut, Loss
from pipeline.shards.segments import MS_PER_S
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


class _Mark(NamedTuple):
    """What a shard held at a moment."""

    position: int
    samples: int
    rejects: int
    left_out: Counter[str]


class _Shard:
    """The shard that is being written: its tar, and what is to be said of its inputs."""

    def __init__(self, tar: BinaryIO, file: str, stages: Stages) -> None:
        self._writer, self._file, self._stages = ShardWriter(tar), file, stages
        self.rows: list[dict[str, Any]] = []
        """Complete index rows."""
        self.members: list[tuple[str, list[Member]]] = []
        """Key and tar members of each sample."""
        self.rejects: list[dict[str, Any]] = []
        self.left_out = Counter[str]()
        self.is_new = False
        """Whether it has samples that were not copied."""

    def write_all(self, entries: list[Entry]) -> None:
        """Append samples."""
        for entry in entries:
            self.write(entry)

    def write(self, entry: Entry) -> None:
        """Append a sample."""
        contents = entry.members()
        with timed(self._stages.seconds, "write"):
            spans = self._writer.write(entry.row["key"], contents)
        frames = spans[: entry.row["num_frames"]]
        row = {
            "shard": self._file,
            "frame_offset": [m.offset for m in frames],
            "frame_size": [m.size for m in frames],
        }
        self.rows.append({**entry.row, **row})
        self.members.append((entry.row["key"], spans))

    def reject(self, source: Planned, reason: Reason, detail: str, times: tuple[float | None, ...] = ()) -> None:
        """Note that an input, or the segment of one with these times, is not in the shard."""
        start_s, end_s = times or (None, None)
        row = {"source": readable(source.path), "reason": reason.value, "detail": detail}
        self.rejects.append({**row, "start_s": start_s, "end_s": end_s})

    def mark(self) -> _Mark:
        """The present state, for `back_to`."""
        return _Mark(self._writer.position, len(self.rows), len(self.rejects), self.left_out.copy())

    def back_to(self, mark: _Mark) -> None:
        """Take back all that came after the mark."""
        self._writer.truncate(mark.position)
        del self.rows[mark.samples :], self.members[mark.samples :], self.rejects[mark.rejects :]
        self.left_out = mark.left_out.copy()

    def close(self) -> None:
        """End the tar."""
        with timed(self._stages.seconds, "write"):
            self._writer.close()


def _entries(source: Planned, decoded: Decoded, task: ShardTask) -> list[Entry]:
    is_clip, segment = "fps" in decoded.fields, decoded if isinstance(decoded, DecodedSegment) else None
    names = frame_names(len(decoded.jpegs)) if is_clip else ["jpg"]
    sample = Sample(
        key=source.key if segment is None else f"{source.key}_{segment.name}",
        source=readable(source.path),
        label=(segment or source).label,
        class_name=(segment or source).class_name,
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
        **{name: decoded.fields.get(name) for name in ("parent", "start_s", "end_s")},
    }
    return [Entry({**row, "key": s.key, "num_frames": len(s.frames)}, functools.partial(members, s)) for s in samples]


def _write_decoded(source: Planned, decoded: Decoded, task: ShardTask, shard: _Shard, stages: Stages) -> None:
    shard.write_all(_entries(source, decoded, task))
    if fps := decoded.fields.get("fps"):
        errors_s = (abs(time_s - frame / fps) for frame, time_s in enumerate(decoded.fields["times_s"]))
        stages.max_timestamp_error_s = max(stages.max_timestamp_error_s, *errors_s)


def _write_segments(source: Planned, task: ShardTask, earlier: list[Entry], shard: _Shard, stages: Stages) -> bool:
    """Write the segments of an input, those of `earlier` as they are; returns whether there are others.

    Raises:
        Rejected: nothing of the input can be used.
    """
    mark, is_new, seen = shard.mark(), False, set[str]()
    left = by_segment = _by_segment(earlier, task.layout)
    for step in decode_segments(task.inputs, source, stages.seconds):
        if isinstance(step, Discard):
            shard.back_to(mark)
            left, is_new, seen = by_segment, False, set()
            continue
        if isinstance(step, LeftOut):
            shard.left_out[step.kind] += 1
            continue
        key, times = f"{source.key}_{step.name}", (step.start_s, step.end_s)
        if key in seen:
            shard.reject(source, Reason.DUPLICATE_KEY, f"the key {key} belongs to a span with the same times", times)
        elif key in left:
            seen.add(key)
            shard.write_all(left[key])
            left = {other: entries for other, entries in left.items() if other != key}
        elif isinstance(step, Loss):
            shard.reject(source, step.reason, step.detail, times)
        else:
            seen.add(key)
            _write_decoded(source, step, task, shard, stages)
            is_new = True
    for entries in left.values():
        shard.write_all(entries)
    return is_new


def _by_segment(entries: list[Entry], layout: Layout) -> dict[str, list[Entry]]:
    """Entries by the keys of their segments, which those of triplets follow with a number."""
    segments: dict[str, list[Entry]] = {}
    for entry in entries:
        key = entry.row["key"]
        segments.setdefault(key if layout == "frames" else key.rpartition("-")[0], []).append(entry)
    return segments


def _reject_all(source: Planned, error: Rejected, shard: _Shard) -> None:
    """Note that nothing of an input can be used: in one row, or one for each span that a list names."""
    for cut in source.cuts:
        times = cut.start_ms / MS_PER_S, None if cut.end_ms is None else cut.end_ms / MS_PER_S
        shard.reject(source, error.reason, error.detail, times)
    if not source.cuts:
        shard.reject(source, error.reason, error.detail)


def _write_key(
    same_key: Iterable[Planned], task: ShardTask, previous: PreviousShard | None, shard: _Shard, stages: Stages
) -> bool:
    """Write the inputs of one key: the first that decodes is the sample, the others are rejects.

    What the shard held before is copied. Returns whether anything else was written.
    """
    owner = ""
    is_new = False
    for source in same_key:
        if first := source.owner or owner:
            detail = f"the key {source.key} belongs to {readable(first)}"
            shard.reject(source, Reason.DUPLICATE_KEY, detail)
            continue
        path = readable(source.path)
        earlier = [] if previous is None else previous.entries(path)
        mark = shard.mark()
        if previous is not None and source.kept:
            shard.rejects += previous.rejects(path)
            shard.write_all(earlier)
        elif previous is not None and previous.is_complete(path):
            shard.rejects += [reject for reject in previous.rejects(path) if reject["start_s"] is not None]
            shard.write_all(earlier)
        elif not source.kept:
            is_new |= _write_input(source, task, earlier, shard, stages)
        if len(shard.rows) > mark.samples:
            owner = source.path
    return is_new


def _write_input(source: Planned, task: ShardTask, earlier: list[Entry], shard: _Shard, stages: Stages) -> bool:
    """Decode and write an input; returns whether there are samples besides those of `earlier`."""
    mark = shard.mark()
    try:
        if task.inputs.cuts(source):
            return _write_segments(source, task, earlier, shard, stages)
        _write_decoded(source, decode(task.inputs, source, stages.seconds), task, shard, stages)
    except Rejected as error:
        shard.back_to(mark)
        shard.write_all(earlier)
        _reject_all(source, error, shard)
        return False
    return True


class _NothingGained(Exception):  # noqa: N818 - not a fault
    """The samples are those that the shard has already."""


def _by_reason(rejects: list[dict[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(reject["reason"] for reject in rejects).items()))


def _rewrite_rejects(out: Storage, part: Part, folder: str, inputs: int, rejects: list[dict[str, Any]]) -> None:
    """Write the part of a shard whose samples stay as they are; its previous part is in `folder`."""
    rows = read_index_part(out, part.name, folder)
    part = replace(part, inputs=inputs, reasons=_by_reason(rejects))
    write_part(out, part.name, part, rows, pa.Table.from_pylist(rejects, REJECTS_SCHEMA))


def _write_tar(
    tar: Path, file: str, planned: list[Planned], task: ShardTask, previous: PreviousShard | None, stages: Stages
) -> _Shard:
    with tar.open("wb") as stream:
        shard = _Shard(stream, file, stages)
        for _, same in groupby(planned, key=lambda source: source.key):
            shard.is_new |= _write_key(same, task, previous, shard, stages)
        shard.close()
    return shard


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
        try:
            with task.out.atomic_write(file) as path:
                written = _write_tar(path, file, planned, task, previous, stages)
                if finished is not None and not written.is_new and len(written.rows) == finished.samples:
                    raise _NothingGained
                with timed(stages.seconds, "write"):
                    size, digest = path.stat().st_size, sha256_file(path)
                closing = time.perf_counter()
        except _NothingGained:
            assert finished is not None
            _rewrite_rejects(task.out, finished, folder, len(planned), written.rejects)
            return
        stages.seconds["write"] += time.perf_counter() - closing  # fsync and rename, or upload
    if written.rows:
        task.out.write(dali_index_file(file), dali_index(written.members).encode())
    else:
        task.out.remove(file)
        task.out.remove(dali_index_file(file))
        size = 0
    part = Part(
        name=name,
        inputs=len(planned),
        samples=len(written.rows),
        frames=sum(row["num_frames"] for row in written.rows),
        bytes=size,
        sha256=digest,
        reasons=_by_reason(written.rejects),
        left_out=dict(sorted(written.left_out.items())),
        seconds=dict(stages.seconds),
        max_timestamp_error_s=stages.max_timestamp_error_s,
    )
    rows = pa.Table.from_pylist(written.rows, INDEX_SCHEMA)
    write_part(task.out, name, part, rows, pa.Table.from_pylist(written.rejects, REJECTS_SCHEMA))
