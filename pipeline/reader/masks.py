"""Block masks of the student's global crops: how many patches of which crop, and which ones."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.reader.philox import Stream, uniforms
from pipeline.settings import Settings

MIN_BLOCK_PATCHES = 4
MIN_ASPECT = 0.3
"""A block's height to width lies between this and its inverse (DINOv2, kept by the released code)."""
_DRAWS_A_CHUNK = 64


class MaskSettings(Settings):
    """Which share of the crops is masked, and how much of each (paper, section 4.1 and table 3d)."""

    probability: float = Field(0.5, ge=0, le=1)
    """Share of the global crops that get a mask."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Share of masked patches in a masked crop; the crops cover this range in equal slots."""


def mask_sizes(settings: MaskSettings, seed: int, step: int, crops: int, patches: int) -> NDArray[np.int64]:
    """Number of masked patches of each of the (crops,) global crops of the whole global batch.

    `int(crops * probability)` crops are masked; the i-th of them draws its ratio from the i-th of equal slots over
    `ratio`; then all are shuffled.
    """
    masked = int(crops * settings.probability)
    draws = uniforms(seed, Stream.MASK_SIZES, step, np.arange(crops), 2)
    edges = np.linspace(*settings.ratio, masked + 1)
    ratio = edges[:-1] + draws[:masked, 0] * np.diff(edges)
    sizes = np.zeros(crops, np.int64)
    sizes[:masked] = (patches * ratio).astype(np.int64)
    return sizes[np.argsort(draws[:, 1], kind="stable")]


def _endless(seed: int, step: int, crop: int, first: NDArray[np.float64]) -> Iterator[float]:
    yield from first.tolist()
    drawn = len(first)
    while True:
        drawn *= 2
        yield from uniforms(seed, Stream.MASK_BLOCKS, step, crop, drawn)[0, drawn // 2 :].tolist()


def block_mask(size: int, grid: tuple[int, int], uniform: Iterator[float]) -> NDArray[np.bool_]:
    """A (rows, columns) mask with exactly `size` True patches made of rectangles that may overlap.

    Each rectangle has an area between `MIN_BLOCK_PATCHES` and what is missing, a log-uniform aspect, and sides smaller
    than the grid; it is taken if it adds at least one patch and not more than are missing.
    """
    rows, columns = grid
    mask = np.zeros(grid, bool)
    missing = size
    log_aspect = math.log(1 / MIN_ASPECT)
    while missing > 0:
        area = MIN_BLOCK_PATCHES + next(uniform) * (missing - MIN_BLOCK_PATCHES)
        aspect = math.exp((2 * next(uniform) - 1) * log_aspect)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < rows and 0 < width < columns):
            continue
        top = int(next(uniform) * (rows - height + 1))
        left = int(next(uniform) * (columns - width + 1))
        block = mask[top : top + height, left : left + width]
        added = height * width - int(np.count_nonzero(block))
        if 0 < added <= missing:
            block[:] = True
            missing -= added
    return mask


def draw_masks(
    sizes: NDArray[np.int64], crops: NDArray[np.int64], seed: int, step: int, grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Masks (n, rows * columns) of the n global crops numbered `crops`, with `sizes` (n,) patches each."""
    masks = np.zeros((len(crops), grid[0] * grid[1]), bool)
    masked = np.flatnonzero(sizes)
    first = uniforms(seed, Stream.MASK_BLOCKS, step, crops[masked], _DRAWS_A_CHUNK)
    for place, draws in zip(masked, first, strict=True):
        stream = _endless(seed, step, int(crops[place]), draws)
        masks[place] = block_mask(int(sizes[place]), grid, stream).ravel()
    return masks
