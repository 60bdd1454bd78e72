"""Textures: a scalar field (noise, stripes, spots, ...) looked up in a small palette, with fine grain on top.

Fields are float32 (height, width) in [0, 1]; colors are float32 in [0, 1]; textures are RGB images.
"""

import colorsys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.float32]
Palette = npt.NDArray[np.float32]
"""(colors, 3) RGB."""
Size = tuple[int, int]
"""(width, height) in pixels."""


def random_palette(rng: np.random.Generator, colors: int = 7) -> Palette:
    """A scene's colors, (colors, 3): a few hue clusters, dark to light."""
    hues = rng.random(3)[rng.integers(0, 3, colors)] + rng.normal(0, 0.04, colors)
    saturations = rng.uniform(0.15, 0.8, colors)
    values = np.linspace(0.2, 0.95, colors) + rng.normal(0, 0.05, colors)
    rgb = [
        colorsys.hsv_to_rgb(h % 1.0, s, min(max(v, 0.1), 1.0))
        for h, s, v in zip(hues, saturations, values, strict=True)
    ]
    return np.array(rgb, np.float32)


def noise(rng: np.random.Generator, size: Size, cell: float, octaves: int = 4) -> Field:
    """Multi-octave value noise in [0, 1]; `cell` is the largest feature's size in pixels."""
    width, height = size
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        grid = rng.random((int(height / step) + 3, int(width / step) + 3), dtype=np.float32)
        box = (1.0, 1.0, 1.0 + width / step, 1.0 + height / step)
        total += np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC, box=box)) * 0.55**octave
    return stretch(total)


def stretch(field: Field) -> Field:
    """Map the field linearly onto [0, 1]."""
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)


def _grid(size: Size, rng: np.random.Generator) -> tuple[Field, Field]:
    """Pixel coordinates turned by a random angle."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _worley(rng: np.random.Generator, size: Size, cell: float) -> tuple[Field, Field]:
    """Distances, in cells, to the nearest and second nearest point of a jittered grid, from half the resolution."""
    width, height, cell = size[0] // 2 + 1, size[1] // 2 + 1, cell / 2
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(cell)
    row, column = y.astype(np.int32), x.astype(np.int32)
    y, x = y - row.astype(np.float32), x - column.astype(np.float32)
    jitter = rng.uniform(0.1, 0.9, (2, int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
    first = np.full((height, width), 9.0, np.float32)
    second = first.copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            point_y, point_x = jitter[:, row + down + 1, column + right + 1]
            squared = (point_y - (y - np.float32(down))) ** 2 + (point_x - (x - np.float32(right))) ** 2
            second = np.minimum(second, np.maximum(first, squared))
            first = np.minimum(first, squared)
    nearest, next_nearest = (
        np.asarray(Image.fromarray(np.sqrt(squared)).resize(size, Image.Resampling.BILINEAR))
        for squared in (first, second)
    )
    return nearest, next_nearest


def _clouds(rng: np.random.Generator, size: Size, cell: float) -> Field:
    return noise(rng, size, 2 * cell, 5)


def _stripes(rng: np.random.Generator, size: Size, cell: float) -> Field:
    along, _ = _grid(size, rng)
    warp = noise(rng, size, 4 * cell, 2)
    field: Field = 0.5 + 0.5 * np.tanh(2 * np.sin(2 * np.pi * (along / cell + 1.5 * warp)))
    return field


def _spots(rng: np.random.Generator, size: Size, cell: float) -> Field:
    first, _ = _worley(rng, size, cell)
    field: Field = 1 / (1 + np.exp((first - 0.36) * 18))
    return field


def _cells(rng: np.random.Generator, size: Size, cell: float) -> Field:
    first, second = _worley(rng, size, cell)
    field: Field = np.clip((second - first) * 2.2, 0, 1)
    return field


def _bricks(rng: np.random.Generator, size: Size, cell: float) -> Field:
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    row = (y / (0.6 * cell)).astype(np.int32)
    shifted = x + (row % 2) * 0.6 * cell
    column = (shifted / (1.2 * cell)).astype(np.int32)
    tone = rng.uniform(0.35, 1, (row.max() + 1, column.max() + 1)).astype(np.float32)
    mortar = (y % (0.6 * cell) < 1.6) | (shifted % (1.2 * cell) < 1.6)
    return np.where(mortar, 0, tone[row, column])


def _wood(rng: np.random.Generator, size: Size, cell: float) -> Field:
    along, across = _grid(size, rng)
    warp = noise(rng, size, 6 * cell, 3)
    rings = np.hypot(across * 1.0 + 90 * warp, along * 0.12)
    field: Field = 0.5 + 0.5 * np.sin(2 * np.pi * rings / (0.7 * cell))
    return field


def _weave(rng: np.random.Generator, size: Size, cell: float) -> Field:
    along, across = _grid(size, rng)
    warp = noise(rng, size, 5 * cell, 2) * 4
    wide = np.sin(2 * np.pi * (along + warp) / cell) + np.sin(2 * np.pi * (across + warp) / cell)
    fine = np.sin(2 * np.pi * along / (0.25 * cell)) * np.sin(2 * np.pi * across / (0.25 * cell))
    return stretch(wide + 0.4 * fine)


def _ripples(rng: np.random.Generator, size: Size, cell: float) -> Field:
    along, across = _grid(size, rng)
    warp = noise(rng, size, 3 * cell, 3) * 2 * cell
    wave = np.sin(2 * np.pi * (across + warp) / (0.8 * cell)) + 0.6 * np.sin(2 * np.pi * (along * 0.3 + across) / cell)
    return stretch(1 - np.abs(wave))


FIELDS: dict[str, Callable[[np.random.Generator, Size, float], Field]] = {
    "clouds": _clouds,
    "stripes": _stripes,
    "spots": _spots,
    "cells": _cells,
    "bricks": _bricks,
    "wood": _wood,
    "weave": _weave,
    "ripples": _ripples,
}


def colorize(field: Field, colors: Palette) -> npt.NDArray[np.float32]:
    """Look a field up in a palette with linear interpolation: (height, width, 3) in [0, 1]."""
    steps = np.linspace(0, 1, len(colors))
    table = np.stack([np.interp(np.linspace(0, 1, 256), steps, colors[:, c]) for c in range(3)], axis=1)
    looked_up: npt.NDArray[np.float32] = table.astype(np.float32)[(field * 255).astype(np.uint8)]
    return looked_up


def to_image(rgb: npt.NDArray[np.float32]) -> Image.Image:
    """(height, width, 3) in [0, 1], clipped, to an 8-bit image."""
    return Image.fromarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8))


def texture(rng: np.random.Generator, kind: str, size: Size, palette: Palette, cell: float) -> Image.Image:
    """A texture of a kind in `FIELDS` from three random colors of `palette`, with clouds and grain on top.

    `cell` is the pattern's period in pixels.
    """
    colors = palette[rng.permutation(len(palette))[:3]]
    rgb = colorize(FIELDS[kind](rng, size, cell), colors)
    shade = 0.78 + 0.42 * noise(rng, size, 3 * cell, 2) + 0.2 * noise(rng, size, 2.0, 1)
    return to_image(rgb * shade[..., None])
