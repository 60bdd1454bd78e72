"""Pictures of predictions: palette masks, tinted objects, skeletons, heat maps."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from evaluation.jhmdb_scores import LIMBS

TILE_WIDTH = 320
OPACITY = 0.55

Picture = NDArray[np.uint8]


def davis_palette() -> Picture:
    """The 256 colors (256, 3) of DAVIS and PASCAL VOC masks: the bits of an id, three by three, from the highest."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def save_mask(path: Path, mask: Picture) -> None:
    """Write an index mask (H, W) as a PNG with the DAVIS palette."""
    image = Image.fromarray(mask)
    image.putpalette(davis_palette().tobytes())
    image.save(path, format="PNG")


def overlay(frame: Picture, mask: Picture) -> Picture:
    """Frame (H, W, 3) with the objects of an index mask (H, W) tinted in their colors."""
    tinted = (1 - OPACITY) * frame + OPACITY * davis_palette()[mask]
    return np.where(mask[..., None] > 0, tinted, frame).astype(np.uint8)


def draw_joints(frame: Picture, joints: NDArray[np.float64]) -> Picture:
    """Frame (H, W, 3) with a skeleton whose joints (2, 15) are in pixels; lost ones are NaN."""
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    width = max(2, round(frame.shape[1] / 90))
    palette = davis_palette()
    points = [(float(x), float(y)) if np.isfinite(x + y) else None for x, y in joints.T]
    for number, limb in enumerate(LIMBS, start=1):
        if (start := points[limb[0]]) is not None and (end := points[limb[1]]) is not None:
            draw.line((*start, *end), fill=tuple(int(value) for value in palette[number]), width=width)
    for point in points:
        if point is not None:
            x, y = point
            draw.ellipse((x - width, y - width, x + width, y + width), fill="white", outline="black")
    return np.asarray(image)


def draw_points(frame: Picture, points: NDArray[np.float64]) -> Picture:
    """Frame (H, W, 3) with points (2, N), pixels, as dots in the colors of the palette; NaN has no dot."""
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    radius = max(2, round(frame.shape[1] / 128))
    palette = davis_palette()
    for number, (x, y) in enumerate(points.T.tolist(), start=1):
        if np.isfinite(x + y):
            color = tuple(palette[1 + number % 255].tolist())
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline="white")
    return np.asarray(image)


def heat(frame: Picture, values: NDArray[np.floating]) -> Picture:
    """Frame (H, W, 3) under a heat map (gh, gw): light where it is high, dark where it is low."""
    scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    light = Image.fromarray((255 * scaled).astype(np.uint8)).resize(frame.shape[1::-1], Image.Resampling.BICUBIC)
    strength = np.asarray(light)[..., None] / 255
    warm = np.array([255, 176, 59]) * strength + np.array([18, 24, 48]) * (1 - strength)
    return (0.45 * frame + 0.55 * warm).astype(np.uint8)


def shrink(picture: Picture, width: int = TILE_WIDTH) -> Image.Image:
    """A picture (H, W, 3) at the width of a tile."""
    height = max(1, round(width * picture.shape[0] / picture.shape[1]))
    return Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
