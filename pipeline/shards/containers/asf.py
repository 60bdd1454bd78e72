"""ASF (WMV): the data object states its size, the header its duration (ASF specification, sections 3.2, 5.1, 5.2)."""

import os
import struct
from typing import IO

from pipeline.shards.containers.completeness import Extent, Statement

_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MOST_OBJECTS = 1000
_DATA_HEADER_BYTES = 50
_BROADCAST = 1
_MOST_PACKETS = 2_000_000
_MOST_PACKET_HEAD_BYTES = 20
_PACKET = b"\x82\0\0"
"""First bytes of a packet; other error correction data are not in use."""
_WIDTHS = (0, 1, 2, 4)
"""Bytes of a packet's field by the two bits of its type."""


def _object(file: IO[bytes], at: int) -> tuple[bytes, int]:
    """GUID and size of the object at a byte of the file; empty and 0 if there is none."""
    file.seek(at)
    head = file.read(24)
    return (head[:16], struct.unpack_from("<Q", head, 16)[0]) if len(head) == 24 else (b"", 0)


def _sent_until_ms(file: IO[bytes], at: int) -> int:
    """Time at which the packet at a byte of the file has been sent; 0 if there is none."""
    file.seek(at)
    if file.read(3) != _PACKET:
        return 0
    fields = file.read(_MOST_PACKET_HEAD_BYTES)
    if len(fields) < _MOST_PACKET_HEAD_BYTES:
        return 0
    # the lengths of the packet and of its padding, and its number, are optional
    sent, lasts = struct.unpack_from("<LH", fields, 2 + sum(_WIDTHS[fields[0] >> shift & 3] for shift in (5, 1, 3)))
    return int(sent + lasts)


def _extents(file: IO[bytes], start: int, packets: int, packet_size: int, stated_s: float) -> list[Extent]:
    """The stated duration, and the time at which the packets from a byte of the file on have been sent.

    A file with its last packet is complete whatever it states, as its last picture may be displayed for long.
    """
    if stated_s <= 0 or (packets and _sent_until_ms(file, start + (packets - 1) * packet_size)):
        return []
    packets = packets or (file.seek(0, os.SEEK_END) - start) // packet_size
    latest_ms = max(
        (_sent_until_ms(file, start + n * packet_size) for n in range(min(packets, _MOST_PACKETS))), default=0
    )
    return [Extent(stated_s, latest_ms / 1000)] if latest_ms else []


def read_asf(file: IO[bytes]) -> Statement | None:
    """Read the statement of an ASF file; None for other files."""
    kind, header_size = _object(file, 0)
    if kind != _HEADER:
        return None
    at, in_packets, packet_size, stated_s = 30, 0, 0, 0.0
    for _ in range(_MOST_OBJECTS):
        kind, size = _object(file, at)
        if size < 24 or at >= header_size:
            break
        if kind == _FILE_PROPERTIES:
            properties = file.read(76)
            if len(properties) < 76:
                break
            packets, plays, sends, preroll_ms, flags, smallest, largest = struct.unpack_from("<32x4Q3L", properties)
            if flags & _BROADCAST:
                return Statement()
            packet_size = smallest if smallest == largest else 0
            in_packets = packets * packet_size
            stated_s = min(plays / 1e7 - preroll_ms / 1000, sends / 1e7)
        at += size
    kind, size = _object(file, header_size)
    if kind != _DATA:
        return Statement()
    packets_size = max(size - _DATA_HEADER_BYTES, in_packets)
    start = header_size + _DATA_HEADER_BYTES
    extents = _extents(file, start, packets_size // packet_size, packet_size, stated_s) if packet_size else []
    return Statement(start + packets_size if packets_size else None, extents)
