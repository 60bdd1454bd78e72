"""ASF (WMV): the data object states its size (Advanced Systems Format specification, sections 3.2 and 5.1)."""

import struct
from typing import IO

from pipeline.shards.containers.completeness import Statement

_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MOST_OBJECTS = 1000
_DATA_HEADER_BYTES = 50
_BROADCAST = 1


def _object(file: IO[bytes], at: int) -> tuple[bytes, int]:
    """GUID and size of the object at a byte of the file; nothing and 0 where there is none."""
    file.seek(at)
    head = file.read(24)
    return (head[:16], struct.unpack_from("<Q", head, 16)[0]) if len(head) == 24 else (b"", 0)


def read_asf(file: IO[bytes]) -> Statement | None:
    """What an ASF file states; None if it is none."""
    kind, header_size = _object(file, 0)
    if kind != _HEADER:
        return None
    at, in_packets = 30, 0
    for _ in range(_MOST_OBJECTS):
        kind, size = _object(file, at)
        if size < 24 or at >= header_size:
            break
        if kind == _FILE_PROPERTIES:
            properties = file.read(76)
            if len(properties) < 76:
                break
            packets, flags, smallest, largest = struct.unpack_from("<32xQ24xLLL", properties)
            if flags & _BROADCAST:
                return Statement()
            in_packets = packets * smallest if smallest == largest else 0
        at += size
    kind, size = _object(file, header_size)
    if kind != _DATA:
        return Statement()
    stated = max(size, _DATA_HEADER_BYTES + in_packets)
    return Statement(end=header_size + stated) if stated > _DATA_HEADER_BYTES else Statement()
