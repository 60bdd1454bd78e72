"""Masks to look at: palette PNGs, and contact sheets of predictions above ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.files import atomic_path

TILE_WIDTH = 320
CAPTION_HEIGHT = 16
OPACITY = 0.55
SHEET_FRAMES = 6


def davis_palette() -> NDArray[np.uint8]:
    """The 256 colours (256, 3) of DAVIS and PASCAL VOC masks: the bits of an id, three by three, from the highest."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def save_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write an index mask (H, W) as a PNG with the DAVIS palette."""
    image = Image.fromarray(mask)
    image.putpalette(davis_palette().tobytes())
    image.save(path, format="PNG")


def overlay(frame: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frame (H, W, 3) with the objects of an index mask (H, W) tinted in their colours."""
    tinted = (1 - OPACITY) * frame + OPACITY * davis_palette()[mask]
    return np.where(mask[..., None] > 0, tinted, frame).astype(np.uint8)


class Column(NamedTuple):
    """One frame of a contact sheet."""

    caption: str
    frame: NDArray[np.uint8]
    """RGB (H, W, 3)."""
    prediction: NDArray[np.uint8]
    """Index mask (h, w)."""
    truth: NDArray[np.uint8] | None
    """Index mask (h, w), or None where the frame is not annotated."""


def sheet_frames(num_frames: int) -> list[int]:
    """The frames that a contact sheet shows: evenly spaced, the first and the last among them."""
    return [int(number) for number in np.unique(np.linspace(0, num_frames - 1, SHEET_FRAMES).round())]


def _tile(frame: NDArray[np.uint8], mask: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    small_frame = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
    small_mask = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(overlay(np.asarray(small_frame), np.asarray(small_mask)))


def save_contact_sheet(path: Path, columns: Sequence[Column]) -> None:
    """Write a PNG, atomically: the predictions in the upper row, the ground truth in the lower one."""
    height, width, _ = columns[0].frame.shape
    size = (TILE_WIDTH, max(1, round(TILE_WIDTH * height / width)))
    row_height = CAPTION_HEIGHT + size[1]
    sheet = Image.new("RGB", (TILE_WIDTH * len(columns), 2 * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, column in enumerate(columns):
        left = number * TILE_WIDTH
        draw.text((left + 4, 2), f"{column.caption} prediction", fill="black")
        sheet.paste(_tile(column.frame, column.prediction, size), (left, CAPTION_HEIGHT))
        known = "ground truth" if column.truth is not None else "no ground truth"
        draw.text((left + 4, row_height + 2), f"{column.caption} {known}", fill="black")
        if column.truth is not None:
            sheet.paste(_tile(column.frame, column.truth, size), (left, row_height + CAPTION_HEIGHT))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
