"""AVI: lists and the OpenDML index state sizes in bytes, the header of a stream its number of pictures."""

import os
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from pipeline.shards.containers.completeness import Statement

_MOST_CHUNKS = 10_000
_MOST_HEADER_BYTES = 1 << 20
_UNKNOWN = (0, 0xFFFFFFFF)
"""Sizes written by a writer that was stopped or cannot seek."""
_UNKNOWN_LENGTH = 1 << 30
"""ffmpeg's frame count if it cannot seek back to the header."""


class _Chunk(NamedTuple):
    kind: bytes
    """FourCC; for RIFF and LIST chunks the type of the list."""
    start: int
    size: int
    """Bytes of its content."""

    @property
    def end(self) -> int:
        return self.start + self.size


def _chunks(file: IO[bytes], at: int, end: int) -> Iterator[_Chunk]:
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(12)
        if at >= end or len(head) < 8:
            return
        kind, size = head[:4], int.from_bytes(head[4:8], "little")
        is_list = kind in (b"RIFF", b"LIST")
        yield _Chunk(head[8:12], at + 12, size - 4) if is_list else _Chunk(kind, at + 8, size)
        at += 8 + size + size % 2


def _content(file: IO[bytes], chunk: _Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(min(chunk.size, _MOST_HEADER_BYTES))


def _index_end(index: bytes) -> int:
    """End of the last chunk in a stream's super index; 0 if it is empty."""
    if len(index) < 24 or index[3] != 0:  # not a super index but an index of chunks
        return 0
    entries = min(int.from_bytes(index[4:8], "little"), (len(index) - 24) // 16)
    return max((sum(struct.unpack_from("<QL", index, 24 + 16 * entry)) for entry in range(entries)), default=0)


def _pictures_s(header: bytes) -> float:
    """Seconds from the first picture to the last by a stream's header; 0 if unknown or not a video."""
    if len(header) < 36 or header[:4] != b"vids":
        return 0.0
    scale, rate, _, length = struct.unpack_from("<20xLLLL", header)
    return (length - 1) * scale / rate if rate and 0 < length < _UNKNOWN_LENGTH else 0.0


def read_riff(file: IO[bytes]) -> Statement | None:
    """Read the statement of an AVI file; None for other files.

    Frame counts are used only if no sizes are stated: converters of the frame rate left too high counts behind.
    """
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"AVI ":
        return None
    size = file.seek(0, os.SEEK_END)
    ends = [0]
    pictures_s = {}
    for riff in _chunks(file, 0, size):
        for part in _chunks(file, riff.start, riff.end if riff.size + 4 not in _UNKNOWN else size):
            if part.kind == b"movi":
                if part.size + 4 in _UNKNOWN:
                    break
                ends.append(part.end - 1)  # the pad byte of the last chunk is often missing
            elif part.kind == b"hdrl":
                streams = (chunk for chunk in _chunks(file, part.start, part.end) if chunk.kind == b"strl")
                for number, stream in enumerate(streams):
                    described = {chunk.kind: _content(file, chunk) for chunk in _chunks(file, stream.start, stream.end)}
                    ends.append(_index_end(described.get(b"indx", b"")))
                    if seconds := _pictures_s(described.get(b"strh", b"")):
                        pictures_s[number] = seconds
    end = max(ends)
    return Statement(end=end) if end else Statement(pictures_s=pictures_s)
