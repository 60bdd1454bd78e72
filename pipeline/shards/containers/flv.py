"""FLV: `onMetaData` states file size and duration, each tag its size and time (Adobe Flash Video, annex E)."""

import os
import struct
from typing import IO

from pipeline.shards.containers.completeness import Extent, Statement

_AUDIO, _VIDEO, _SCRIPT = 8, 9, 18
_MOST_TAGS = 2_000_000
_MOST_METADATA_BYTES = 1 << 20


def _stated(metadata: bytes, name: bytes) -> float:
    """A number of `onMetaData`; 0 if it is missing."""
    at = metadata.find(len(name).to_bytes(2, "big") + name + b"\0")
    value = metadata[at + 3 + len(name) :][:8] if at >= 0 else b""
    number = struct.unpack(">d", value)[0] if len(value) == 8 else 0.0
    return number if 0 < number < 1e15 else 0.0


def read_flv(file: IO[bytes]) -> Statement | None:
    """Read the statement of an FLV file; None for other files. Times and duration include the sound."""
    head = file.read(9)
    if len(head) < 9 or head[:3] != b"FLV":
        return None
    size = file.seek(0, os.SEEK_END)
    at = int.from_bytes(head[5:9], "big") + 4
    metadata, times_ms, end = b"", [], 0
    for _ in range(_MOST_TAGS):
        file.seek(at)
        tag = file.read(11)
        if len(tag) < 11 or (kind := tag[0] & 31) not in (_AUDIO, _VIDEO, _SCRIPT):
            break
        length = int.from_bytes(tag[1:4], "big")
        end = at + 11 + length
        if end > size:
            break
        if kind == _SCRIPT:
            metadata = metadata or file.read(min(length, _MOST_METADATA_BYTES))
        else:
            times_ms.append(int.from_bytes(tag[7:8] + tag[4:7], "big"))
        at = end + 4
    else:
        return Statement()  # too long to read
    end = max(end, int(_stated(metadata, b"filesize")))
    duration_s = _stated(metadata, b"duration")
    present_s = (max(times_ms) - min(times_ms)) / 1000 if times_ms else 0.0
    return Statement(end, [Extent(duration_s, present_s)] if duration_s else [])
