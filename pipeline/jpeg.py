"""The check of a JPEG by decoding it to its end, and the turns that make a picture upright."""

import io

from PIL import Image, UnidentifiedImageError

MAX_JPEG_SIDE = 65_500
"""Pixels beyond which libjpeg writes no side."""
MOST_SCANS = 1000
"""JPEGs with more scans are refused. Ten are usual; each costs the decoder all blocks of the picture, 60 ms for 100
million pixels, and a hundred bytes of file."""
_SCAN = b"\xff\xda"
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of an EXIF orientation upright."""


class JpegError(Exception):
    """A JPEG is damaged; the message says how."""


class TooManyScansError(JpegError):
    """A JPEG has more than `MOST_SCANS` scans and would take too long to decode."""


def check_scans(jpeg: bytes) -> None:
    """Count the scans of a JPEG.

    Raises:
        TooManyScansError: there are more than `MOST_SCANS`.
    """
    if (scans := jpeg.count(_SCAN)) > MOST_SCANS:  # within a scan these bytes cannot stand; elsewhere they are rare
        raise TooManyScansError(f"{scans} scans; a JPEG may have {MOST_SCANS}")


def check_jpeg(jpeg: bytes) -> tuple[int, int]:
    """Decode a JPEG to its end and return (width, height).

    All entropy-coded data is read; only luminance is reconstructed, at an eighth of its size, which is cheaper.

    Raises:
        JpegError: it is damaged or would take too long.
    """
    check_scans(jpeg)
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            size = image.size
            image.draft("L", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
    except UnidentifiedImageError as error:
        raise JpegError("no JPEG") from error
    except Exception as error:  # Pillow's decoders raise every kind
        raise JpegError(f"the JPEG does not decode: {error}") from error
    return size
