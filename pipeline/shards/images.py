"""Still image -> JPEG that every decoder takes, and the check of JPEGs by decoding them."""

import io
import warnings
from pathlib import Path

from PIL import ExifTags, Image, ImageOps
from pydantic import Field

from pipeline.settings import Settings
from pipeline.shards.rejects import Reason, Rejected

_DECODE_FAULTS = (OSError, SyntaxError, ValueError, EOFError)
"""What Pillow raises on broken files (UnidentifiedImageError is an OSError)."""


class ImageSettings(Settings):
    """How still images are taken."""

    short_side: int | None = Field(None, ge=16)
    """Shrink larger images to this shorter side in pixels; by default JPEGs are kept byte for byte."""
    quality: int = Field(95, ge=1, le=100)
    """Pillow's JPEG quality for images that must be re-encoded."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Images with more pixels are rejected unread."""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*_DECODE_FAULTS, KeyError, TypeError):  # a broken EXIF block says nothing about the picture
        return 1


def _to_rgb(image: Image.Image, orientation: int) -> Image.Image:
    upright = ImageOps.exif_transpose(image) if orientation != 1 else image
    if upright.mode.startswith("I"):  # 16 bits a pixel; Pillow would clip instead of scaling
        upright = upright.point(lambda value: value / 256).convert("L")
    if "A" in upright.getbands() or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright.convert("RGB")


def encode_image(path: Path, settings: ImageSettings) -> tuple[bytes, str]:
    """Return the JPEG bytes of the image at `path` and how they were made: "copied" or what was converted.

    Raises:
        Rejected: it cannot be opened or decoded, or has more than `max_pixels`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Rejected(Reason.UNREADABLE, error.strerror or "cannot be read") from error
    if not data:
        raise Rejected(Reason.UNREADABLE, "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metadata that Pillow finds odd; the decode below is what counts
            return _encode(data, settings)
    except Image.DecompressionBombError as error:
        raise Rejected(Reason.TOO_LARGE, str(error)) from error
    except _DECODE_FAULTS as error:
        detail = "not an image that Pillow knows" if "cannot identify" in str(error) else str(error)
        raise Rejected(Reason.DECODE_ERROR, detail) from error


def _encode(data: bytes, settings: ImageSettings) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > settings.max_pixels:
            raise Rejected(
                Reason.TOO_LARGE, f"{image.width} x {image.height} pixels; max_pixels is {settings.max_pixels}"
            )
        orientation = _orientation(image)
        shrink = settings.short_side is not None and min(image.size) > settings.short_side
        if image.format == "JPEG" and image.mode == "RGB" and orientation == 1 and not shrink:
            return data, "copied"
        done = [f"from {image.format} {image.mode}"] + ["rotated upright"] * (orientation != 1) + ["resized"] * shrink
        upright = _to_rgb(image, orientation)
    if shrink and settings.short_side is not None:
        factor = settings.short_side / min(upright.size)
        upright = upright.resize(
            (round(upright.width * factor), round(upright.height * factor)), Image.Resampling.BICUBIC
        )
    stream = io.BytesIO()
    upright.save(stream, "JPEG", quality=settings.quality)
    return stream.getvalue(), ", ".join(done)


def check_jpeg(data: bytes) -> tuple[int, int]:
    """Decode a JPEG to its end and return (width, height).

    All entropy-coded data is read; the picture is reconstructed at an eighth of its size, which is cheaper.

    Raises:
        Rejected: it is damaged.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
    except _DECODE_FAULTS as error:
        raise Rejected(Reason.DECODE_ERROR, f"the JPEG does not decode: {error}") from error
    return size
