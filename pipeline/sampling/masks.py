"""Block masks of the student's global crops: how many patches of each crop, and which ones."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.sampling.philox import Stream, uniforms
from pipeline.settings import Settings

MIN_BLOCK_PATCHES = 4
MIN_ASPECT = 0.3
"""Lower bound of a block's height over width; the upper bound is its inverse (DINOv2, kept by the released code)."""
_DRAWS_PER_TRY = 4
_TRIES_PER_CHUNK = 16


class MaskSettings(Settings):
    """How many crops are masked, and how much of each (paper, section 4.1 and table 3d)."""

    probability: float = Field(0.5, ge=0, le=1)
    """Share of the global crops that get a mask."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Range of the share of masked patches in a masked crop; the crops cover it in equal intervals."""

    @model_validator(mode="after")
    def _ratio_is_a_range(self) -> "MaskSettings":
        if not 0 <= self.ratio[0] <= self.ratio[1] <= 1:
            raise ValueError(f"ratio = {self.ratio[0]}, {self.ratio[1]} must be two rising shares from 0 to 1")
        return self


def mask_sizes(settings: MaskSettings, seed: int, step: int, crops: int, patches: int) -> NDArray[np.int64]:
    """Number of masked patches (crops,) of each global crop of the whole global batch.

    `int(crops * probability)` crops are masked. The i-th draws its ratio from the i-th of equal intervals of `ratio`;
    then all are shuffled. Every rank draws the whole global batch (under a millisecond for 2,048 clips), as intervals
    and shuffle run over it, and as a mean over masked patches needs their total number.
    """
    masked = int(crops * settings.probability)
    draws = uniforms(seed, Stream.MASK_SIZES, step, np.arange(crops), 2)
    edges = np.linspace(*settings.ratio, masked + 1)
    ratio = edges[:-1] + draws[:masked, 0] * np.diff(edges)
    sizes = np.zeros(crops, np.int64)
    sizes[:masked] = (patches * ratio).astype(np.int64)
    return sizes[np.argsort(draws[:, 1], kind="stable")]


@functools.lru_cache(maxsize=4)
def _blocks(rows: int, columns: int) -> list[list[int]]:
    """`blocks[height][width]`: the block in the top left corner as an integer, bit `row * columns + column` a patch."""
    blocks = [[0] * columns for _ in range(rows)]
    for height in range(1, rows):
        for width in range(1, columns):
            blocks[height][width] = sum((2**width - 1) << row * columns for row in range(height))
    return blocks


def _tries(uniform: NDArray[np.float64]) -> list[list[float]]:
    """Area, square root of the aspect, row and column of n / 4 tries from n draws; all but the second in [0, 1)."""
    tries = uniform.reshape(-1, _DRAWS_PER_TRY)
    tries[:, 1] = np.exp((tries[:, 1] - 0.5) * math.log(1 / MIN_ASPECT))
    result: list[list[float]] = tries.tolist()
    return result


def add_blocks(mask: int, missing: int, grid: tuple[int, int], tries: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Add rectangles to a mask of `grid` (rows, columns) until no patch is missing or all `tries` are used.

    Masks are integers, bit `row * columns + column` a patch. A rectangle has an area between `MIN_BLOCK_PATCHES` and
    `missing`, a log-uniform aspect and sides smaller than the grid; it is kept if it adds at least one and at most
    `missing` patches. Returns the mask and the number of patches that are still missing.
    """
    rows, columns = grid
    blocks = _blocks(rows, columns)
    for area_draw, root_aspect, row_draw, column_draw in tries:
        if not missing:
            break
        side = math.sqrt(MIN_BLOCK_PATCHES + area_draw * (missing - MIN_BLOCK_PATCHES))
        height, width = round(side * root_aspect), round(side / root_aspect)
        if not (0 < height < rows and 0 < width < columns):
            continue
        top, left = int(row_draw * (rows - height + 1)), int(column_draw * (columns - width + 1))
        block = blocks[height][width] << top * columns + left
        added = (block & ~mask).bit_count()
        if 0 < added <= missing:
            mask |= block
            missing -= added
    return mask, missing


def draw_masks(
    sizes: NDArray[np.int64], crops: NDArray[np.int64], seed: int, step: int, grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Masks (n, rows * columns) of the n global crops numbered `crops`, with `sizes` (n,) patches each."""
    patches = grid[0] * grid[1]
    masked = np.flatnonzero(sizes)
    result = {index: (0, size) for index, size in zip(masked.tolist(), sizes[masked].tolist(), strict=True)}
    unfinished, first, chunk = masked.tolist(), 0, _DRAWS_PER_TRY * _TRIES_PER_CHUNK
    while unfinished:
        tries = _tries(uniforms(seed, Stream.MASK_BLOCKS, step, crops[unfinished], chunk, first))
        for number, index in enumerate(unfinished):
            own_tries = tries[number * _TRIES_PER_CHUNK : (number + 1) * _TRIES_PER_CHUNK]
            result[index] = add_blocks(*result[index], grid, own_tries)
        unfinished = [index for index in unfinished if result[index][1]]
        first += chunk
    width = -(-patches // 8)
    packed = b"".join(mask.to_bytes(width, "little") for mask, _ in result.values())
    bits = np.frombuffer(packed, np.uint8).reshape(len(masked), width)
    masks = np.zeros((len(crops), patches), bool)
    masks[masked] = np.unpackbits(bits, axis=1, count=patches, bitorder="little")
    return masks
