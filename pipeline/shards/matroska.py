"""Whether a Matroska or WebM file was cut off: ffmpeg takes the end of such a file for the end of the clip."""

import os
from typing import IO

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def _number(file: IO[bytes], with_marker: bool) -> int | None:
    """A variable-length number (RFC 8794, section 4); None if it is unknown or the file ends."""
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


def missing_bytes(file: IO[bytes]) -> int:
    """How many bytes the file lacks by the size that its segment states; 0 if it states none or is no Matroska file."""
    file.seek(0)
    if _number(file, with_marker=True) != _EBML or (header := _number(file, with_marker=False)) is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if _number(file, with_marker=True) != _SEGMENT or (size := _number(file, with_marker=False)) is None:
        return 0
    end = file.tell() + size
    return max(0, end - file.seek(0, os.SEEK_END))
