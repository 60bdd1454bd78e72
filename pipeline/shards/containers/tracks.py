"""Tracks of a movie box: the times of their samples, and their edit lists."""

from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np

from pipeline.shards.containers.boxes import Box, boxes, content, inside, number, table

_MOST_SAMPLES = 2_000_000
_MOST_TRACKS = 100
_NORMAL_RATE = 1 << 16


class Edit(NamedTuple):
    """One entry of an edit list."""

    duration: int
    """In ticks of the movie; 0: until the end."""
    start: int
    """In ticks of the track; -1: an empty edit, which displays nothing."""


@dataclass(frozen=True)
class Track:
    """One track; durations and times in ticks."""

    id: int
    is_video: bool
    ticks_per_s: int
    duration: int
    """Stated by its header; 0 if unknown."""
    samples_duration: int
    """Duration of the samples in the movie box itself."""
    times: np.ndarray
    """(samples,) int64 presentation times of those samples; empty if there are none or they are implausible."""
    edits: list[Edit]
    default_sample_duration: int
    """Duration of samples in fragments that state none."""


@dataclass(frozen=True)
class Movie:
    """The movie box."""

    ticks_per_s: int
    duration: int
    """Duration with all fragments, in ticks; 0 if unknown."""
    tracks: list[Track]


def _times(stts: bytes, ctts: bytes) -> tuple[np.ndarray, int]:
    """Presentation times of samples from the tables of durations and offsets, and the sum of the durations."""
    nothing = np.empty(0, np.int64)
    counts, durations = table(stts, 4, ">u4", 2).T
    if not 0 < counts.sum() <= _MOST_SAMPLES or (durations >= 1 << 31).any():
        return nothing, 0
    ends = np.cumsum(durations.repeat(counts))
    times = np.concatenate([ends[:1] * 0, ends[:-1]])
    if ctts:
        pairs = table(ctts, 4, ">i4", 2)
        if (pairs[:, 0] < 0).any() or pairs[:, 0].sum() != len(times):
            return nothing, int(ends[-1])
        times = times + pairs[:, 1].repeat(pairs[:, 0])
    return times, int(ends[-1])


def _edits(elst: bytes) -> list[Edit] | None:
    """The entries of an edit list; None if it changes the speed."""
    width = 8 if elst[:1] == b"\1" else 4
    edits = []
    for at in range(8, min(len(elst), 8 + number(elst, 4) * (2 * width + 4)), 2 * width + 4):
        if number(elst, at + 2 * width) != _NORMAL_RATE:
            return None
        start = int.from_bytes(elst[at + width : at + 2 * width], "big", signed=True)
        edits.append(Edit(number(elst, at, width), start))
    return edits


def _duration(header: bytes, at: int) -> tuple[int, int]:
    """Ticks per second and duration in a movie or media header; `at` is their offset in version 0."""
    wide = header[:1] == b"\1"
    at += 8 * wide
    width = 8 if wide else 4
    duration = number(header, at + 4, width)
    return number(header, at), duration if duration != (1 << 8 * width) - 1 else 0


def _track(file: IO[bytes], trak: Box, defaults: dict[int, int]) -> Track | None:
    """Read a track; None if a mandatory box is missing."""
    within = inside(file, trak)
    media = inside(file, within[b"mdia"]) if b"mdia" in within else {}
    tables: dict[bytes, Box] = {}
    if b"minf" in media and b"stbl" in (information := inside(file, media[b"minf"])):
        tables = inside(file, information[b"stbl"])
    header = content(file, within.get(b"tkhd"))
    ticks_per_s, duration = _duration(content(file, media.get(b"mdhd")), 12)
    if not header or not ticks_per_s or b"stts" not in tables:
        return None
    track_id = number(header, 20 if header[0] == 1 else 12)
    edits = _edits(content(file, inside(file, within[b"edts"]).get(b"elst"))) if b"edts" in within else []
    times, samples_duration = _times(content(file, tables[b"stts"]), content(file, tables.get(b"ctts")))
    return Track(
        id=track_id,
        is_video=content(file, media.get(b"hdlr"))[8:12] == b"vide",
        ticks_per_s=ticks_per_s,
        duration=duration,
        samples_duration=samples_duration,
        times=times if edits is not None else times[:0],
        edits=edits or [],
        default_sample_duration=defaults.get(track_id, 0),
    )


def read_movie(file: IO[bytes], moov: Box) -> Movie:
    """Read a movie box."""
    ticks_per_s, duration, whole = 0, 0, 0
    defaults: dict[int, int] = {}
    children = list(boxes(file, moov.start, moov.end))
    for box in children:
        if box.kind == b"mvhd":
            ticks_per_s, duration = _duration(content(file, box), 12)
        elif box.kind == b"mvex":
            for extends in boxes(file, box.start, box.end):
                data = content(file, extends)
                if extends.kind == b"mehd":
                    whole = number(data, 4, 8 if data[:1] == b"\1" else 4)
                elif extends.kind == b"trex":
                    defaults[number(data, 4)] = number(data, 12)
    traks = [box for box in children if box.kind == b"trak"][:_MOST_TRACKS]
    tracks = (_track(file, trak, defaults) for trak in traks)
    return Movie(ticks_per_s, max(duration, whole), [track for track in tracks if track is not None])


def pictures_s(track: Track, movie_ticks_per_s: int) -> float | None:
    """Seconds from the first displayed picture of a track to the last; None if it lists none."""
    if not len(track.times) or not movie_ticks_per_s:
        return None
    shown = []
    begins = 0.0
    for edit in track.edits or [Edit(0, int(track.times.min()))]:
        seconds = edit.duration / movie_ticks_per_s
        if edit.start >= 0:
            end = edit.start + seconds * track.ticks_per_s if edit.duration else np.inf
            within = track.times[(track.times >= edit.start) & (track.times < end)]
            if len(within):
                shown += [begins + (int(t) - edit.start) / track.ticks_per_s for t in (within.min(), within.max())]
        begins += seconds
    return max(shown) - min(shown) if shown else None
