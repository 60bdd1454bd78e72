"""Still image -> JPEG that every decoder reads in the same way."""

import io
import warnings

from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.jpeg import MAX_JPEG_SIDE, TURNS, JpegError, TooManyScansError, check_jpeg, check_scans
from pipeline.orientation import exif_orientation, has_orderly_header, turning_segments, without_segments
from pipeline.shards.pixels import rescale_transparent_color, to_rgb
from pipeline.shards.rejects import Rejected
from pipeline.spec import ImageSettings, Reason

MIN_SIDE = 16
"""Pictures with a shorter side in pixels are rejected."""
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""Formats that Pillow may read: none that run a program or refer to other files (EPS, WMF)."""
_JPEGS = ("JPEG", "MPO")
_DECODE_FAULTS = (Exception,)
"""Pillow's decoders raise all kinds of exceptions on broken files."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `max_pixels` is checked instead


def check_side(size: tuple[int, int]) -> None:
    """Check that both sides of `size` (width, height) have at least `MIN_SIDE` pixels.

    Raises:
        Rejected: one is smaller.
    """
    if min(size) < MIN_SIDE:
        raise Rejected(Reason.TOO_SMALL, f"{size[0]} x {size[1]} pixels; a side must have at least {MIN_SIDE}")


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format in _JPEGS:
        return exif_orientation(data)
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODE_FAULTS:  # the picture may be fine although its EXIF block is broken
        return 1


def encode_image(data: bytes, settings: ImageSettings) -> tuple[bytes, str]:
    """Convert the bytes of an image file into an upright RGB JPEG; of an animation the first picture.

    Returns the JPEG and how it was made: "copied" byte for byte (not decoded: see `checked_size`), "copied without
    its orientation" if metadata was removed by which readers could have turned it, or a conversion such as "from PNG
    RGBA" or "from JPEG RGB, rotated upright, resized". The JPEG has no orientation in its metadata.

    Raises:
        Rejected: it cannot be opened or decoded, or has too few or too many pixels.
    """
    if not data:
        raise Rejected(Reason.UNREADABLE, "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata; only the decode below counts
            return _encode(data, settings)
    except Rejected:
        raise
    except TooManyScansError as error:
        raise Rejected(Reason.TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:  # its message contains a memory address
        raise _unidentified(data) from error
    except Image.DecompressionBombError as error:
        raise Rejected(Reason.TOO_LARGE, f"more than max_pixels = {settings.max_pixels} pixels") from error
    except _DECODE_FAULTS as error:
        raise Rejected(Reason.DECODE_ERROR, str(error) or type(error).__name__) from error


def _unidentified(data: bytes) -> Rejected:
    for kind in FORMATS:
        _, begins_like_one = Image.OPEN[kind]
        if begins_like_one is not None and begins_like_one(data[:16]):
            return Rejected(Reason.DECODE_ERROR, f"a {kind} with a header or a kind of pixels that is not read")
    return Rejected(Reason.NOT_MEDIA, f"no image of these formats: {', '.join(FORMATS)}")


def _encode(data: bytes, settings: ImageSettings) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > settings.max_pixels:
            raise Rejected(
                Reason.TOO_LARGE, f"{image.width} x {image.height} pixels; max_pixels is {settings.max_pixels}"
            )
        check_side(image.size)
        rescale_transparent_color(image)  # first, because reading the EXIF of a PNG decodes it
        orientation = _orientation(image, data)
        shrink = settings.short_side is not None and min(image.size) > settings.short_side
        kept = image.format == "JPEG" and image.mode == "RGB" and has_orderly_header(data)
        if kept and orientation == 1 and not shrink:
            if turning := turning_segments(data):
                return without_segments(data, turning), "copied without its orientation"
            return data, "copied"
        if image.format in _JPEGS:
            check_scans(data)
        source = f"from {image.format} {image.mode}"
        turn = TURNS.get(orientation) if image.format != "TIFF" else None  # Pillow turns TIFFs while decoding
        upright, gray_levels = to_rgb(image)
    if turn is not None:
        upright = upright.transpose(turn)
    if shrink and settings.short_side is not None:
        factor = settings.short_side / min(upright.size)
        upright = upright.resize(
            (round(upright.width * factor), round(upright.height * factor)), Image.Resampling.BICUBIC
        )
    if max(upright.size) > MAX_JPEG_SIDE:
        size = f"{upright.width} x {upright.height} pixels"
        raise Rejected(Reason.TOO_LARGE, f"{size}; a side of a JPEG may have {MAX_JPEG_SIDE}")
    done = [source] + [f"gray levels {gray_levels}"] * bool(gray_levels)
    done += ["rotated upright"] * (orientation != 1) + ["resized"] * shrink
    stream = io.BytesIO()
    upright.save(stream, "JPEG", quality=settings.quality)
    return stream.getvalue(), ", ".join(done)


def checked_size(jpeg: bytes) -> tuple[int, int]:
    """Decode a JPEG to its end and return (width, height).

    Raises:
        Rejected: it is damaged, or would take too long.
    """
    try:
        return check_jpeg(jpeg)
    except TooManyScansError as error:
        raise Rejected(Reason.TOO_LARGE, str(error)) from error
    except JpegError as error:
        raise Rejected(Reason.DECODE_ERROR, str(error)) from error
