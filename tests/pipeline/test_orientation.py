"""One rule for the orientation, and the segments on which other readers disagree."""

import pytest

from pipeline.orientation import exif_orientation, has_orderly_header, turning_segments, without_segments
from tests.media import app1, exif_block, jpeg, picture, with_segments

PLAIN = jpeg(picture(16, 24, seed=0))
ORIENTATION, MODEL = 0x0112, 0x0110
SHORT, BYTE, LONG = 3, 1, 4
XMP = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%d"/>'
XMP_ELEMENT = b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>%d</tiff:Orientation>"
UPRIGHT = exif_block((ORIENTATION, SHORT, 1, 1))
TURNED = exif_block((ORIENTATION, SHORT, 1, 6))
SILENT = exif_block((MODEL, 2, 1, 65))


@pytest.mark.parametrize(
    ("segments", "orientation"),
    [
        ((), 1),
        ((UPRIGHT,), 1),
        ((SILENT,), 1),
        ((exif_block((ORIENTATION, SHORT, 1, 1), order=">"),), 1),
        ((app1(XMP % 1), UPRIGHT), 1),
        ((app1(XMP_ELEMENT % 1),), 1),
        ((app1(b"Exif\0\0"),), 1),
        ((app1(b"Exif\0\0II*\0\xff\xff\xff\xff"),), 1),
        ((app1(b"something else"), b"\xff\xfe\0\x04hi", b"\xff\xff" + UPRIGHT), 1),
    ],
)
def test_ordinary_metadata_stays(segments: tuple[bytes, ...], orientation: int) -> None:
    data = with_segments(PLAIN, *segments)
    assert exif_orientation(data) == orientation
    assert turning_segments(data) == []
    assert has_orderly_header(data)


@pytest.mark.parametrize(
    ("segments", "orientation", "stays"),
    [
        ((TURNED,), 6, ()),
        ((exif_block((ORIENTATION, SHORT, 1, 8), order=">"),), 8, ()),
        ((SILENT, TURNED), 1, ()),  # an editor added a block of its own
        ((TURNED, UPRIGHT), 6, ()),
        ((exif_block((ORIENTATION, BYTE, 1, 6)),), 1, ()),
        ((exif_block((ORIENTATION, LONG, 1, 6)),), 1, ()),
        ((exif_block((ORIENTATION, SHORT, 0, 6)),), 1, ()),
        ((exif_block((ORIENTATION, SHORT, 2, 6)),), 1, ()),
        ((exif_block((ORIENTATION, SHORT, 1, 1), (ORIENTATION, SHORT, 1, 6)),), 1, ()),
        ((app1(b"Exif\0\0*\0II" + TURNED[14:]),), 1, ()),  # a header that only lenient readers accept
        ((app1(TURNED[4:-6]),), 1, ()),  # ends within its entries
        ((app1(XMP % 6),), 1, ()),
        ((UPRIGHT, app1(XMP_ELEMENT % 8)), 1, (UPRIGHT,)),
        ((app1(XMP % 1), SILENT, b"\xff\xfe\0\x04hi", TURNED), 1, (app1(XMP % 1), b"\xff\xfe\0\x04hi")),
    ],
)
def test_metadata_that_may_turn_a_picture_is_removed(
    segments: tuple[bytes, ...], orientation: int, stays: tuple[bytes, ...]
) -> None:
    data = with_segments(PLAIN, *segments)
    assert exif_orientation(data) == orientation
    assert without_segments(data, turning_segments(data)) == with_segments(PLAIN, *stays)


@pytest.mark.parametrize(
    "header", [b"\0\0\0", b"\xff\xd0", b"\xff\x01", b"\xff\xe1\0\x01", b"\xff\xe1\xff\xff", b"\xff\xd9\0\2"]
)
def test_stray_bytes_in_the_header_are_found(header: bytes) -> None:
    assert not has_orderly_header(with_segments(PLAIN, SILENT, header))
    assert not has_orderly_header(header + PLAIN)
    assert not has_orderly_header(PLAIN[:20])
