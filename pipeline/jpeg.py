"""Decode a JPEG, check one by decoding it to its end, and the transpositions that make pictures upright."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MAX_JPEG_SIDE = 65_500
"""Largest side in pixels that libjpeg writes."""
MOST_SCANS = 1000
"""JPEGs with more scans are refused. Ten are usual; with only a hundred bytes each, a scan makes the decoder visit all
blocks of the picture, which takes 60 ms for 100 million pixels."""
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
"""Transposition that makes a picture with an EXIF orientation upright."""


class JpegError(Exception):
    """A JPEG is damaged; the message says how."""


class TooManyScansError(JpegError):
    """A JPEG has more than `MOST_SCANS` scans and would take too long to decode."""


def check_scans(jpeg: bytes) -> None:
    """Check the number of scans of a JPEG.

    Raises:
        TooManyScansError: there are more than `MOST_SCANS`.
    """
    if (scans := jpeg.count(_SCAN)) > MOST_SCANS:  # these bytes cannot occur inside a scan and are rare elsewhere
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
        raise JpegError("not a JPEG") from error
    except Exception as error:  # Pillow's decoders raise all kinds of exceptions
        raise JpegError(f"the JPEG does not decode: {error}") from error
    return size


def decode_jpeg(jpeg: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of a JPEG in RGB; EXIF is ignored.

    Raises:
        JpegError: it is damaged.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise all kinds of exceptions
        raise JpegError(f"the JPEG does not decode: {error}") from error
