"""Pictures side by side below their names, as the frames of an MP4."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.files import atomic_path
from pipeline.report.contact_sheet import fit
from pipeline.report.palette import LIGHT
from pipeline.settings import UserError

_GAP, _TEXT = 4, 14
_QUALITY = 7
"""Of imageio-ffmpeg, from 0 to 10."""


def side_by_side(pictures: Sequence[Image.Image], names: Sequence[str]) -> Image.Image:
    """Pictures of one height in a row, each below its name; both sides are even, as H.264 demands."""
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    head = 2 * _TEXT
    height = head + pictures[0].height
    row = Image.new("RGB", (width + width % 2, height + height % 2), LIGHT["paper"])
    pen, font, left = ImageDraw.Draw(row), ImageFont.load_default(_TEXT), 0
    for picture, name in zip(pictures, names, strict=True):
        pen.text((left, _TEXT // 3), fit(name, picture.width, _TEXT), LIGHT["ink"], font)
        row.paste(picture, (left, head))
        left += picture.width + _GAP
    return row


@contextlib.contextmanager
def video_writer(path: Path, size: tuple[int, int], fps: float) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Context with a function that appends a frame: RGB pixels (H, W, 3) of `size` (width, height).

    The file appears when the context ends without an error.

    Raises:
        UserError: ffmpeg fails.
    """
    with atomic_path(path) as temporary:
        options = ["-f", "mp4", "-movflags", "+faststart"]  # the temporary name has no extension
        frames = imageio_ffmpeg.write_frames(
            str(temporary),
            size,
            fps=fps,
            codec="libx264",
            quality=_QUALITY,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=options,
        )
        try:
            frames.send(None)
            with contextlib.closing(frames):
                yield lambda pixels: frames.send(np.ascontiguousarray(pixels))
            imageio_ffmpeg.count_frames_and_secs(str(temporary))  # the library does not look at ffmpeg's exit status
        except (OSError, RuntimeError) as error:
            raise UserError(f"ffmpeg could not write {path}: {' '.join(str(error).split())[:300]}") from error
