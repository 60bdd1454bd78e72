"""Which samples a step reads: a pure function of seed, position and data, so the same on any number of ranks.

The samples of a run form one endless sequence of positions; a global batch of G samples takes the next G of them. Each
dataset is an endless sequence of epochs, each of which holds every sample once; a mixture interleaves its datasets in
proportion to their weights.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.sampling.philox import Stream, permutation
from pipeline.settings import COUNT_LIMIT, Settings

Integers = NDArray[np.int64]


class OrderSettings(Settings):
    """How the samples of an epoch are shuffled."""

    kind: Literal["global", "window"] = "global"
    """global: one permutation of everything. window: shards in random order, samples shuffled within the next few."""
    window: int = Field(8, ge=1, le=COUNT_LIMIT)
    """Shards whose samples are shuffled together in order `window`."""


class DatasetSize(NamedTuple):
    """Number of samples in each shard of a dataset, and its weight in the mixture."""

    shards: tuple[int, ...]
    """Samples of each shard; rows are numbered across the shards."""
    weight: float = 1.0
    """How often it is drawn from, relative to the other datasets."""

    @property
    def samples(self) -> int:
        """Number of rows."""
        return sum(self.shards)


class SampleOrder(NamedTuple):
    """The samples at n positions, (n,) each."""

    epoch: Integers
    """Epoch of the dataset that the sample is from."""
    row: Integers
    """Row of the sample, numbered across the datasets."""


def interleave(positions: Integers, weights: Sequence[float]) -> tuple[Integers, Integers]:
    """Dataset at each position (n,), and its number of samples at earlier positions (n,).

    The first dataset gets its share of every range of positions to within one sample, the second one its share of the
    rest, and so on.
    """
    dataset = np.full(positions.shape, len(weights) - 1, np.int64)
    index = np.array(positions)
    unassigned = np.ones(positions.shape, bool)
    for number, weight in enumerate(weights[:-1]):
        share = weight / sum(weights[number:])
        before, after = (np.floor((index + step) * share).astype(np.int64) for step in (0, 1))
        current = unassigned & (after > before)
        dataset[current] = number
        index = np.where(current, before, np.where(unassigned, index - before, index))
        unassigned &= ~current
    return dataset, index


@functools.lru_cache(maxsize=16)
def shard_order(seed: int, epoch: int, dataset: int, shards: int) -> Integers:
    """Shard numbers (shards,) in the order in which an epoch of order `window` reads them."""
    return permutation(seed, Stream.SHARDS, epoch, dataset, shards)


@functools.lru_cache(maxsize=16)
def _epoch_rows(seed: int, epoch: int, dataset: int, shards: tuple[int, ...], window: int | None) -> Integers:
    """Rows of one dataset in the order of one epoch."""
    shuffled = permutation(seed, Stream.ORDER, epoch, dataset, sum(shards))
    if window is None:
        return shuffled
    rank_of_shard = np.argsort(shard_order(seed, epoch, dataset, len(shards)))
    window_of_row = np.repeat(rank_of_shard // window, shards)
    return shuffled[np.argsort(window_of_row[shuffled], kind="stable")]


def sample_order(
    settings: OrderSettings, seed: int, positions: Integers, dataset_sizes: Sequence[DatasetSize]
) -> SampleOrder:
    """Epoch and row of the samples at `positions` (n,), which count from 0 at the first step of a run."""
    dataset, index = interleave(positions, [size.weight for size in dataset_sizes])
    samples = np.array([size.samples for size in dataset_sizes])
    epoch, index = np.divmod(index, samples[dataset])
    row = np.empty_like(index)
    window = settings.window if settings.kind == "window" else None
    for number, size in enumerate(dataset_sizes):
        for value in np.unique(epoch[dataset == number]).tolist():
            current = (dataset == number) & (epoch == value)
            row[current] = _epoch_rows(seed, value, number, size.shards, window)[index[current]]
    return SampleOrder(epoch, row + (np.cumsum(samples) - samples)[dataset])


def upcoming_shards(
    settings: OrderSettings, seed: int, positions: Integers, dataset_sizes: Sequence[DatasetSize]
) -> list[tuple[int, int]]:
    """(dataset, shard) of the windows at `positions` (n,) and of the next window, in the order in which they are read.

    For order `window` only.
    """
    dataset, index = interleave(positions, [size.weight for size in dataset_sizes])
    result: dict[tuple[int, int], None] = {}
    for number, size in enumerate(dataset_sizes):
        indices = index[dataset == number]
        if not len(indices):
            continue
        windows = -(-len(size.shards) // settings.window)
        first, last = (_window(settings, seed, number, size, int(end)) for end in (indices.min(), indices.max()))
        for epoch, window in (divmod(count, windows) for count in range(first, last + 2)):
            order = shard_order(seed, epoch, number, len(size.shards))
            shards = order[window * settings.window : (window + 1) * settings.window]
            result |= dict.fromkeys((number, shard) for shard in shards.tolist())
    return list(result)


def _window(settings: OrderSettings, seed: int, dataset: int, size: DatasetSize, index: int) -> int:
    """Window, numbered across the epochs, of a dataset's sample number `index`."""
    epoch, index = divmod(index, size.samples)
    ends = np.cumsum(np.array(size.shards)[shard_order(seed, epoch, dataset, len(size.shards))])
    windows = -(-len(size.shards) // settings.window)
    return epoch * windows + int(np.searchsorted(ends, index, "right")) // settings.window
