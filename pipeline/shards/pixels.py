"""Any kind of pixels that Pillow reads -> 8-bit RGB, with transparency blended on white."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

from pipeline.shards.rejects import Rejected
from pipeline.spec import Reason

_SIGNED, _WHITE_IS_ZERO = 2, 0
"""TIFF's SampleFormat of signed integers, and its PhotometricInterpretation of negatives."""
_DARKEST = 1 / 8
"""Share of its presumed range that a picture must reach; a darker one probably has another range."""
_SLACK = 1 / 512
"""Share of the range by which values may exceed it: half a level of 256."""
_PNG_LEVELS = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}
"""Factors by which Pillow scales the pixels of some PNGs, but not their transparent color."""


class _Gray(NamedTuple):
    """Gray levels that Pillow would clip instead of scale."""

    values: NDArray[np.generic]
    """(height, width) numbers."""
    whites: tuple[int, ...]
    """Possible ranges: 1 means 0 to 1, n means 0 to n - 1."""
    negative: bool
    """Whether 0 is white."""


def _gray(image: Image.Image) -> _Gray | None:
    """Gray levels of an image with more than 8 bits per pixel or signed ones; None for other images."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits = tags.get(BITSPERSAMPLE, (16,))[0]
    signed = tags.get(SAMPLEFORMAT, (1,))[0] == _SIGNED
    negative = tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO
    if image.mode.startswith("I;16"):
        return _Gray(np.asarray(image), (1 << bits,), negative)  # the range given by the format
    if image.mode == "F":
        return _Gray(np.asarray(image), (1, 1 << 8, 1 << 16), negative)
    if image.mode == "I" or (image.mode == "L" and signed):
        values = np.asarray(image)
        full = 1 << (bits - signed)
        integers = values.view(f"{'i' if signed else 'u'}{values.itemsize}")
        return _Gray(integers, tuple(sorted({min(white, full) for white in (1 << 8, 1 << 16, full)})), negative)
    return None


def _white(gray: _Gray) -> int:
    """The smallest of the possible ranges that contains all pixels.

    Raises:
        Rejected: none does, or the picture would be almost black in it.
    """
    low, high = float(gray.values.min()), float(gray.values.max())
    if not math.isfinite(high - low):
        raise Rejected(Reason.DECODE_ERROR, "some gray levels are not finite numbers")
    white = next((white for white in gray.whites if high <= white * (1 + _SLACK)), None)
    if white is None or low < -white * _SLACK or 0 < high < white * _DARKEST:
        raise Rejected(
            Reason.DECODE_ERROR, f"gray levels from {low:g} to {high:g}: which of them is white is not known"
        )
    return white


def _eight_bits(gray: _Gray, white: int) -> Image.Image:
    levels = np.clip(np.floor(gray.values.astype(np.float32) * np.float32(256 / white)), 0, 255).astype(np.uint8)
    return Image.fromarray(~levels if gray.negative else levels)


def rescale_transparent_color(image: ImageFile.ImageFile) -> None:
    """Scale the transparent color of a PNG like its pixels; call it after opening and before decoding."""
    color = image.info.get("transparency")
    factor = _PNG_LEVELS.get(str(image.tile[0].args)) if image.format == "PNG" and image.tile else None
    if factor is not None and isinstance(color, int):
        image.info["transparency"] = color * factor
    elif factor is not None and isinstance(color, tuple):
        image.info["transparency"] = tuple(int(channel * factor) for channel in color)


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Decode an image into RGB; returns it, and the range of its gray levels if it had to be guessed from them.

    For integers and floats without a stated range, the range is the first that contains the picture of 0 to 1 (floats),
    255, 65535 and all values of the type.

    Raises:
        Rejected: no such range fits.
        OSError, ValueError and other exceptions of Pillow: it cannot be decoded.
    """
    image.load()
    gray_range = ""
    if (gray := _gray(image)) is not None:
        white = _white(gray)
        if len(gray.whites) > 1:
            gray_range = f"0 to {white - (white > 1)}"
        transparent = image.info.pop("transparency", None)
        upright = _eight_bits(gray, white)
        if transparent is not None:
            upright.paste(255, mask=Image.fromarray(gray.values == transparent))
        upright.info = image.info
        image = upright
    if image.mode == "La":  # premultiplied
        image = image.convert("LA")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), gray_range
