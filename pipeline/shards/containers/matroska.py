"""Matroska and WebM: the segment states its size (RFC 8794, section 4; RFC 9559, section 5.1)."""

import os
from typing import IO

from pipeline.shards.containers.completeness import Statement

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


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
    return None if value == (1 << 7 * length) - 1 else value  # all ones: a live recording that knows no size


def read_matroska(file: IO[bytes]) -> Statement | None:
    """What a Matroska file states; None if it is none."""
    if _number(file, with_marker=True) != _EBML or (header := _number(file, with_marker=False)) is None:
        return None
    file.seek(header, os.SEEK_CUR)
    if _number(file, with_marker=True) != _SEGMENT or (size := _number(file, with_marker=False)) is None:
        return Statement()
    return Statement(end=file.tell() + size)
