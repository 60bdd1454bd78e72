"""Orientation in the metadata of a JPEG, and the segments on which readers disagree.

Readers disagree on unusual metadata: two EXIF blocks, a tag of another type or count, XMP without EXIF. This module
follows the standard (EXIF 2.32, 4.6.5), as browsers do: the orientation is that of the first EXIF block if its field is
a single SHORT; otherwise the picture is upright as stored.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

_EXIF = b"Exif\0\0"
_TIFF_HEADERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION, _SHORT = 0x0112, 3
_XMP_ORIENTATION = re.compile(rb"(?<!/)tiff:Orientation(?!\s*(?:=\s*[\"']|>)\s*1\b)")
"""An XMP orientation other than 1."""
_APP1, _START_OF_SCAN, _END = 0xE1, 0xDA, 0xD9
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xD9)}


class Segment(NamedTuple):
    """First byte of a segment of a JPEG, including its marker, and the byte after its last."""

    start: int
    end: int


class _Field(NamedTuple):
    """An entry of a TIFF directory; a value of up to four bytes is stored in the entry itself."""

    kind: int
    values: int
    value: int
    """The first two bytes as a number: the value, if `kind` is SHORT."""


_UPRIGHT = _Field(_SHORT, 1, 1)
_CUT_OFF = _Field(0, 0, 0)
"""Stands for a directory that is cut off within its entries, on which readers disagree."""


def _header(jpeg: bytes) -> Iterator[Segment | None]:
    """Yield the segments before the first scan, and None at the end if there are other bytes than fill bytes between.

    No reader looks for metadata after the first scan.
    """
    at, orderly = 2, jpeg.startswith(b"\xff\xd8")
    while (marker := jpeg.find(b"\xff", at)) >= 0 and marker + 4 <= len(jpeg):
        orderly &= marker == at
        kind = jpeg[marker + 1]
        if kind == 0xFF:  # a fill byte
            at = marker + 1
        elif kind in _WITHOUT_LENGTH:
            orderly = False
            at = marker + 2
        else:
            at = marker + 2 + int.from_bytes(jpeg[marker + 2 : marker + 4], "big")
            if kind == _START_OF_SCAN and orderly:
                return
            if kind in (_START_OF_SCAN, _END) or at < marker + 4:
                break
            yield Segment(marker, at)
    yield None


def _app1_segments(jpeg: bytes) -> list[Segment]:
    """APP1 segments: EXIF, XMP and others."""
    return [segment for segment in _header(jpeg) if segment is not None and jpeg[segment.start + 1] == _APP1]


def has_orderly_header(jpeg: bytes) -> bool:
    """Whether the header is a sequence of segments; only some decoders skip stray bytes between them."""
    return None not in _header(jpeg)


def _body(jpeg: bytes, segment: Segment) -> bytes:
    return jpeg[segment.start + 4 : segment.end]


def _orientation_fields(exif: bytes) -> list[_Field]:
    """The orientation fields of the first directory of an EXIF block; a broken block has none."""
    tiff = exif[len(_EXIF) :]
    order = _TIFF_HEADERS.get(tiff[:4])
    if not exif.startswith(_EXIF) or order is None or len(tiff) < 8:
        return []
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return []
    (entries,) = struct.unpack_from(f"{order}H", tiff, start)
    if start + 2 + 12 * entries > len(tiff):
        return [_CUT_OFF]
    result = (struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry) for entry in range(entries))
    return [_Field(kind, count, value) for tag, kind, count, value in result if tag == _ORIENTATION]


def _exif_segments(jpeg: bytes) -> list[Segment]:
    return [segment for segment in _app1_segments(jpeg) if _body(jpeg, segment).startswith(_EXIF[:5])]


def exif_orientation(jpeg: bytes) -> int:
    """The orientation of a JPEG by the rule of this module: 1 is upright, 2 to 8 are not, others have no meaning."""
    for segment in _exif_segments(jpeg)[:1]:
        for kind, values, value in _orientation_fields(_body(jpeg, segment))[:1]:
            if (kind, values) == (_SHORT, 1):
                return value
    return 1


def _is_plain(exif: bytes) -> bool:
    """Whether all readers agree that an EXIF block has no orientation, or 1 in the form of the standard."""
    readable = exif.startswith(_EXIF) and exif[len(_EXIF) :][:4] in (*_TIFF_HEADERS, b"")
    return readable and all(field == _UPRIGHT for field in _orientation_fields(exif))


def turning_segments(jpeg: bytes) -> list[Segment]:
    """The segments because of which some reader may turn or mirror a JPEG; ordinary upright photos have none.

    All EXIF blocks unless there is only one, with orientation 1 or none, and XMP with an orientation other than 1.
    """
    exif = _exif_segments(jpeg)
    turning = exif if len(exif) > 1 or not all(_is_plain(_body(jpeg, segment)) for segment in exif) else []
    others = [segment for segment in _app1_segments(jpeg) if segment not in exif]
    return sorted([*turning, *(other for other in others if _XMP_ORIENTATION.search(_body(jpeg, other)))])


def without_segments(jpeg: bytes, segments: list[Segment]) -> bytes:
    """Remove segments, given in order, from a JPEG; all other bytes stay."""
    starts = [0, *(segment.end for segment in segments)]
    ends = [*(segment.start for segment in segments), len(jpeg)]
    return b"".join(jpeg[start:end] for start, end in zip(starts, ends, strict=True))
