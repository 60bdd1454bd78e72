"""Fragments of a movie, compared with the headers, the segment indices and the random access index."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import IO, NamedTuple

import numpy as np

from pipeline.shards.containers.boxes import Box, boxes, content, inside, number, table
from pipeline.shards.containers.completeness import TOLERANCE_S, Extent
from pipeline.shards.containers.tracks import Movie, Track

_MOST_SAMPLES = 1_000_000


class Run(NamedTuple):
    """The samples of one track in one fragment, with times in ticks of the track."""

    fragment: int
    """Index of the fragment in the file."""
    start: int
    end: int
    last: int
    """Duration of its last sample."""
    delay: int
    """Presentation delay of its first sample."""


@dataclass
class Fragments:
    """All fragments of a file."""

    numbers: list[int] = field(default_factory=list)
    """Sequence number of each fragment, in the order of the file."""
    runs: dict[int, list[Run]] = field(default_factory=lambda: defaultdict(list))
    """Runs of each track."""
    indexed_s: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """First and last second of the segment indices of each track."""
    named: dict[int, np.ndarray] = field(default_factory=dict)
    """(fragments, 2) presentation time in ticks and byte offset of each track's entries in the random access index."""
    by_offset: dict[int, int] = field(default_factory=dict)
    """Index of the fragment that begins at a byte of the file."""


def _durations(trun: bytes, default: int) -> tuple[int, int, int]:
    """Total duration of a run of samples, duration of the last one, and presentation delay of the first."""
    flags, count = number(trun, 1, 3), min(number(trun, 4), _MOST_SAMPLES)
    width = 4 * (flags >> 8 & 0xF).bit_count()
    start = 8 + 4 * (flags & 1) + 4 * (flags >> 2 & 1)
    delay = int.from_bytes(trun[start + width - 4 : start + width], "big", signed=True) if flags & 0x800 else 0
    if not flags & 0x100 or not count:
        return count * default, default, delay
    rows = np.frombuffer(trun[start : start + count * width].ljust(count * width, b"\0"), ">u4").reshape(count, -1)
    return int(rows[:, 0].sum(dtype=np.int64)), int(rows[-1, 0]), delay


def read_fragment(file: IO[bytes], moof: Box, movie: Movie, fragments: Fragments) -> None:
    """Add a movie fragment."""
    tracks = {track.id: track for track in movie.tracks}
    index = len(fragments.numbers)
    fragments.by_offset |= {moof.start - 8: index, moof.start - 16: index}  # its header has 8 or 16 bytes
    fragments.numbers.append(number(content(file, inside(file, moof).get(b"mfhd")), 4))
    for traf in boxes(file, moof.start, moof.end):
        head = content(file, inside(file, traf).get(b"tfhd")) if traf.kind == b"traf" else b""
        if (track := tracks.get(number(head, 4))) is None:
            continue
        flags = number(head, 1, 3)
        default = number(head, 8 + 8 * (flags & 1) + 2 * (flags & 2)) if flags & 8 else track.default_sample_duration
        before = fragments.runs[track.id]
        start = before[-1].end if before else track.samples_duration
        total, last, delay = 0, default, None
        for box in boxes(file, traf.start, traf.end):
            if box.kind == b"tfdt":
                data = content(file, box)
                start = number(data, 4, 8 if data[:1] == b"\1" else 4)
            elif box.kind == b"trun":
                added, last, first = _durations(content(file, box), default)
                total += added
                delay = first if delay is None else delay
        before.append(Run(index, start, start + total, last, delay or 0))


def read_segment_index(file: IO[bytes], sidx: Box, fragments: Fragments) -> None:
    """Add a segment index."""
    data = content(file, sidx)
    width = 8 if data[:1] == b"\1" else 4
    ticks_per_s, start = number(data, 8), number(data, 12, width)
    if ticks_per_s:
        total = int(table(b"\0\0" + data[14 + 2 * width :], 0, ">u4", 3)[:, 1].sum())  # its count has 2 bytes
        fragments.indexed_s[number(data, 4)].append((start / ticks_per_s, (start + total) / ticks_per_s))


def read_random_access(file: IO[bytes], mfra: Box, fragments: Fragments) -> None:
    """Add the random access index at the end of the file."""
    for box in boxes(file, mfra.start, mfra.end):
        data = content(file, box)
        if box.kind != b"tfra" or len(data) < 16:
            continue
        wide, sizes = data[0] == 1, data[11]
        width = (16 if wide else 8) + sum((sizes >> shift & 3) + 1 for shift in (4, 2, 0))
        count = min(number(data, 12), (len(data) - 16) // width)
        kinds = [">u8", ">u8"] if wide else [">u4", ">u4"]
        entry = np.dtype({"names": ["time", "offset"], "formats": kinds, "itemsize": width})
        entries = np.frombuffer(data[16 : 16 + count * width], entry)
        fragments.named[number(data, 4)] = np.stack([entries["time"], entries["offset"]], 1).astype(np.int64)


def _span_s(runs: list[Run], track: Track) -> tuple[float, float]:
    """First and last second that the samples of a track cover, including those in the movie box."""
    starts = [run.start for run in runs] + [0] * bool(track.samples_duration)
    ends = [run.end for run in runs] + [track.samples_duration]
    return min(starts) / track.ticks_per_s, max(ends) / track.ticks_per_s


def _delay_s(track: Track, movie: Movie) -> float:
    """Seconds before a track begins according to its edit list."""
    return sum(edit.duration for edit in track.edits if edit.start < 0) / movie.ticks_per_s


def _lost(fragments: Fragments, track: Track) -> np.ndarray:
    """Times of a track's fragments that are missing at the offsets in the random access index."""
    runs = {run.fragment: run for run in fragments.runs[track.id]}
    tolerance = TOLERANCE_S * track.ticks_per_s
    lost = []
    for time, offset in fragments.named.get(track.id, np.empty((0, 2), np.int64)).tolist():
        run = runs.get(fragments.by_offset.get(offset, -1))
        if run is None or not run.start - tolerance <= time <= run.end + tolerance:
            lost.append(time)
    return np.array(lost, np.int64)


def fragment_extents(fragments: Fragments, movie: Movie) -> list[Extent]:
    """Stated durations of the whole movie and of its video tracks, and how much of them the fragments cover."""
    spans = {t.id: _span_s(fragments.runs[t.id], t) for t in movie.tracks if fragments.runs[t.id]}
    if not spans:
        return []
    extents = []
    if movie.ticks_per_s:
        delays = {track.id: _delay_s(track, movie) for track in movie.tracks}
        ends = (end + delays[track] for track, (_, end) in spans.items())
        present_s = max(ends) - min(start for start, _ in spans.values())
        extents.append(Extent(movie.duration / movie.ticks_per_s, present_s))
    for track in movie.tracks:
        if not track.is_video or track.id not in spans:
            continue
        start, end = spans[track.id]
        extents.append(Extent(track.duration / track.ticks_per_s, end - start))
        if indexed := fragments.indexed_s.get(track.id):
            extents.append(Extent(max(last for _, last in indexed) - min(first for first, _ in indexed), end - start))
        runs = fragments.runs[track.id]
        lost = _lost(fragments, track)
        if len(after := lost[lost >= runs[-1].end + runs[-1].delay]):
            usual = float(np.median([run.end - run.start for run in runs]))
            extents.append(Extent((int(after.max()) + usual) / track.ticks_per_s - start, end - start))
        if len(before := lost[lost < runs[0].start]) and not track.samples_duration:
            extents.append(Extent(end - int(before.min()) / track.ticks_per_s, end - start))
    return [extent for extent in extents if extent.stated_s > 0]


def fragment_hole_s(fragments: Fragments, movie: Movie) -> tuple[float, float] | None:
    """Start and end of the first gap in the fragments of a video track, in seconds.

    A gap in time is not enough, as screen recorders and phones record at a variable rate. The sequence numbers must
    have a gap there as well, or an index must name a fragment in it.
    """
    steps = [after - before for before, after in pairwise(fragments.numbers)]
    usual = int(np.median(steps)) if len(steps) > 2 else 1  # packagers may number the fragments of several files
    for track in movie.tracks:
        runs = fragments.runs[track.id] if track.is_video else []
        lost = _lost(fragments, track)
        for before, after in pairwise(runs):
            if after.start - before.end <= TOLERANCE_S * track.ticks_per_s:
                continue
            step = fragments.numbers[after.fragment] - fragments.numbers[before.fragment]
            named = ((lost >= before.end + before.delay) & (lost < after.start + after.delay)).any()
            if named or step > max(usual, 1) * (after.fragment - before.fragment):
                return before.end / track.ticks_per_s, after.start / track.ticks_per_s
    return None


def fragment_pictures_s(runs: list[Run], track: Track) -> float | None:
    """Seconds from the first picture of a fragmented track to the last; None if an edit list cuts it."""
    if not runs or any(edit.duration for edit in track.edits):
        return None
    start, end = _span_s(runs, track)
    return end - start - runs[-1].last / track.ticks_per_s
