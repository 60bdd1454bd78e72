"""Boxes of ISO base media files (ISO/IEC 14496-12, section 4.2)."""

from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

_MOST_BOXES = 100_000
_MOST_CONTENT_BYTES = 32 << 20


class TooManyBoxes(Exception):  # noqa: N818 - not a fault: such a file is not checked
    """More boxes than clips have."""


class Box(NamedTuple):
    """The content of a box, in bytes from the start of the file; its end may be beyond that of the file."""

    kind: bytes
    start: int
    end: int


def boxes(file: IO[bytes], at: int, end: int) -> Iterator[Box]:
    """Yield the boxes that begin between two bytes of the file.

    Raises:
        TooManyBoxes: there are more than `_MOST_BOXES`.
    """
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if at + 8 > end or len(head) < 8:
            return
        size, kind, start = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if size == 1:
            size, start = int.from_bytes(head[8:], "big"), at + 16
        elif size == 0:
            size = end - at  # to the end of its parent
        if at + size < start:
            return
        yield Box(kind, start, at + size)
        at += size
    raise TooManyBoxes


def inside(file: IO[bytes], box: Box) -> dict[bytes, Box]:
    """The children of a box by kind; the first of several."""
    result: dict[bytes, Box] = {}
    for child in boxes(file, box.start, box.end):
        result.setdefault(child.kind, child)
    return result


def content(file: IO[bytes], box: Box | None) -> bytes:
    """The bytes of a box; empty if it is missing or implausibly large."""
    if box is None or box.end - box.start > _MOST_CONTENT_BYTES:
        return b""
    file.seek(box.start)
    return file.read(box.end - box.start)


def number(data: bytes, at: int, size: int = 4) -> int:
    """A big-endian number; 0 if the data is too short."""
    return int.from_bytes(data[at : at + size], "big") if at + size <= len(data) else 0


def table(data: bytes, at: int, kind: str, columns: int) -> np.ndarray:
    """Table of 4-byte numbers as (rows, columns) int64; the number of rows is at byte `at`, before the first."""
    rows = min(number(data, at), max(0, len(data) - at - 4) // (4 * columns))
    return np.frombuffer(data[at + 4 :][: 4 * rows * columns], kind).reshape(rows, columns).astype(np.int64)
