"""Matroska and WebM: size and duration of the segment, and the offsets of clusters in its cues (RFC 8794, RFC 9559)."""

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import IO, NamedTuple

import numpy as np

from pipeline.shards.containers.completeness import TOLERANCE_S, Extent, Statement

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_INFO, _TICK_NS, _DURATION = 0x1549A966, 0x2AD7B1, 0x4489
_CUES, _CUE_POINT, _CUE_TIME, _CUE_POSITIONS, _CUE_CLUSTER = 0x1C53BB6B, 0xBB, 0xB3, 0xB7, 0xF1
_CLUSTER, _CLUSTER_TIME, _BLOCK_GROUP, _BLOCK, _SIMPLE_BLOCK = 0x1F43B675, 0xE7, 0xA0, 0xA1, 0xA3
_MOST_ELEMENTS = 2_000_000
_USUAL_TICK_NS = 1_000_000


class _Element(NamedTuple):
    kind: int
    at: int
    """Its first byte in the file."""
    start: int
    """First byte of its content."""
    size: int | None
    """Bytes of its content; None if unknown."""


class _TooManyElements(Exception):  # noqa: N818 - not a fault: such a file is not checked
    """More elements than clips have."""


def _number(file: IO[bytes], with_marker: bool) -> int | None:
    """A variable-length number; None if it is unknown or the file ends."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    value = int.from_bytes(first + rest, "big")
    if len(rest) < length - 1:
        return None
    if with_marker:
        return value
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value  # all ones: unknown, as in live recordings


def _elements(file: IO[bytes], at: int, end: int, *entered: int) -> Iterator[_Element]:
    """Yield the complete elements between two bytes of the file, and the children of the kinds `entered`.

    Clusters of unknown size are always entered.

    Raises:
        _TooManyElements: there are more than `_MOST_ELEMENTS`.
    """
    for _ in range(_MOST_ELEMENTS):
        file.seek(at)
        if at >= end or (kind := _number(file, with_marker=True)) in (None, _EBML):
            return
        size = _number(file, with_marker=False)
        start = file.tell()
        inside = kind in entered or (size is None and kind == _CLUSTER)
        if not inside and (size is None or start + size > end):
            return
        yield _Element(kind, at, start, size)
        at = start if inside else start + (size or 0)
    raise _TooManyElements


def _value(file: IO[bytes], element: _Element) -> int:
    file.seek(element.start)
    return int.from_bytes(file.read(min(element.size or 0, 8)), "big")


def _end(element: _Element) -> int:
    return element.start + (element.size or 0)


def _info(file: IO[bytes], info: _Element) -> tuple[int, float]:
    """Nanoseconds of a tick, and the duration in ticks; 0 if none is stated."""
    tick_ns, duration = _USUAL_TICK_NS, 0.0
    for element in _elements(file, info.start, _end(info)):
        if element.kind == _TICK_NS:
            tick_ns = _value(file, element)
        elif element.kind == _DURATION and element.size in (4, 8):
            file.seek(element.start)
            duration = struct.unpack(">f" if element.size == 4 else ">d", file.read(element.size))[0]
    return tick_ns, duration if 0 < duration < 1e15 else 0.0


def _cues(file: IO[bytes], cues: _Element) -> list[tuple[int, int]]:
    """Time in ticks and byte offset in the segment's content of each cue."""
    time, result = 0, []
    for element in _elements(file, cues.start, _end(cues), _CUE_POINT, _CUE_POSITIONS):
        if element.kind == _CUE_TIME:
            time = _value(file, element)
        elif element.kind == _CUE_CLUSTER:
            result.append((time, _value(file, element)))
    return result


def _cluster_time(file: IO[bytes], cluster: _Element, end: int) -> int:
    """Time of a cluster in ticks: its first element, except for a checksum."""
    for element in islice(_elements(file, cluster.start, end), 2):
        if element.kind == _CLUSTER_TIME:
            return _value(file, element)
    return 0


def _block_times(file: IO[bytes], start: int, end: int) -> np.ndarray:
    """(times,) sorted unique times in ticks of the blocks of all tracks."""
    cluster, times = 0, set()
    for element in _elements(file, start, end, _CLUSTER, _BLOCK_GROUP):
        if element.kind == _CLUSTER_TIME:
            cluster = _value(file, element)
        elif element.kind in (_BLOCK, _SIMPLE_BLOCK):
            file.seek(element.start)
            _number(file, with_marker=False)  # of its track
            times.add(cluster + int.from_bytes(file.read(2), "big", signed=True))
    return np.array(sorted(times), np.float64)


def _missing(times: np.ndarray, duration: float, lost: list[int], tick_s: float) -> Statement:
    """Compare the stated duration, and the times of cues without a cluster, with the times of the blocks.

    A cue with a wrong offset alone is no fault: blocks of its time must be missing as well.
    """
    first, last = float(times[0]), float(times[-1])
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    counted_from = first if duration <= first else 0.0  # some writers count from the first block, others from 0
    extents = [Extent(duration * tick_s, (last + usual - counted_from) * tick_s)] if duration else []
    extents += [Extent(time * tick_s, last * tick_s) for time in lost if time > last]
    for time in lost:
        after = int(np.searchsorted(times, time))
        if first < time < last and (times[after] - time) * tick_s > TOLERANCE_S:
            return Statement(extents=extents, hole_s=(float(times[after - 1]) * tick_s, float(times[after]) * tick_s))
    return Statement(extents=extents)


def _read_segment(file: IO[bytes], start: int, size: int | None) -> Statement:
    """Read the statement of a segment whose content begins at byte `start`.

    A segment with correct cues up to its stated end is complete, whatever its duration: the last picture may be
    displayed for long, which no element states. The headers of all blocks are read only if something is wrong.
    """
    file_end = file.seek(0, os.SEEK_END)
    stated_end = None if size is None else start + size
    end = file_end if stated_end is None else min(stated_end, file_end)
    reached = start
    described: dict[int, _Element] = {}
    clusters: dict[int, int] = {}
    for element in _elements(file, start, end):
        reached = _end(element)
        if element.kind == _CLUSTER:
            clusters[element.at - start] = _cluster_time(file, element, end)
        else:
            described.setdefault(element.kind, element)
    tick_ns, duration = _info(file, described[_INFO]) if _INFO in described else (_USUAL_TICK_NS, 0.0)
    cues = _cues(file, described[_CUES]) if _CUES in described else []
    lost = [time for time, offset in cues if offset not in clusters or clusters[offset] > time]
    nothing_wrong = not lost and (reached == stated_end if cues else not duration)
    if nothing_wrong or not len(times := _block_times(file, start, end)):
        return Statement(end=stated_end)
    return replace(_missing(times, duration, lost, tick_ns / 1e9), end=stated_end)


def read_matroska(file: IO[bytes]) -> Statement | None:
    """Read the statement of a Matroska file; None for other files."""
    if _number(file, with_marker=True) != _EBML or (header := _number(file, with_marker=False)) is None:
        return None
    file.seek(header, os.SEEK_CUR)
    if _number(file, with_marker=True) != _SEGMENT:
        return Statement()
    size = _number(file, with_marker=False)
    start = file.tell()
    try:
        return _read_segment(file, start, size)
    except _TooManyElements:
        return Statement(end=None if size is None else start + size)
