"""Which samples a step visits: a pure function of seed, position and data, and so the same on any number of ranks.

All visits of a run form one endless row of positions; a global batch of G samples takes the next G of them. Each
dataset is an endless row of epochs, each of which holds every sample once; a mixture deals the positions out to its
datasets in proportion to their weights.
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
    """A dataset as the order sees it."""

    shards: tuple[int, ...]
    """Samples of each shard; rows count through the shards."""
    weight: float = 1.0
    """Its share of the visits, relative to the other datasets."""

    @property
    def samples(self) -> int:
        """Number of rows."""
        return sum(self.shards)


class SampleOrder(NamedTuple):
    """What n positions visit, (n,) each."""

    epoch: Integers
    """Epoch of the dataset that the sample is from."""
    row: Integers
    """Row of the sample; the rows of several datasets are counted through."""


def interleave(positions: Integers, weights: Sequence[float]) -> tuple[Integers, Integers]:
    """Dataset of each position (n,), and how many earlier positions went to the same dataset (n,).

    The first dataset gets its share of every stretch of positions to within one visit, the second one of what is left,
    and so on.
    """
    dataset = np.full(positions.shape, len(weights) - 1, np.int64)
    place = np.array(positions)
    left = np.ones(positions.shape, bool)
    for number, weight in enumerate(weights[:-1]):
        share = weight / sum(weights[number:])
        before, after = (np.floor((place + step) * share).astype(np.int64) for step in (0, 1))
        current = left & (after > before)
        dataset[current] = number
        place = np.where(current, before, np.where(left, place - before, place))
        left &= ~current
    return dataset, place


@functools.lru_cache(maxsize=16)
def shard_order(seed: int, epoch: int, dataset: int, shards: int) -> Integers:
    """Shard numbers in the order of an epoch of order `window`."""
    return permutation(seed, Stream.SHARDS, epoch, dataset, shards)


@functools.lru_cache(maxsize=16)
def _epoch(seed: int, epoch: int, dataset: int, shards: tuple[int, ...], window: int | None) -> Integers:
    """Rows of one dataset in the order of one epoch."""
    shuffled = permutation(seed, Stream.ORDER, epoch, dataset, sum(shards))
    if window is None:
        return shuffled
    place = np.argsort(shard_order(seed, epoch, dataset, len(shards)))
    window_of_row = np.repeat(place // window, shards)
    return shuffled[np.argsort(window_of_row[shuffled], kind="stable")]


def visits(settings: OrderSettings, seed: int, positions: Integers, populations: Sequence[DatasetSize]) -> SampleOrder:
    """Epoch and row of each of the positions (n,), which count from 0 at the first step of a run."""
    dataset, place = interleave(positions, [population.weight for population in populations])
    samples = np.array([population.samples for population in populations])
    epoch, within = np.divmod(place, samples[dataset])
    row = np.empty_like(place)
    window = settings.window if settings.kind == "window" else None
    for number, population in enumerate(populations):
        mine = dataset == number
        for turn in np.unique(epoch[mine]).tolist():
            current = mine & (epoch == turn)
            row[current] = _epoch(seed, turn, number, population.shards, window)[within[current]]
    return SampleOrder(epoch, row + (np.cumsum(samples) - samples)[dataset])


def coming_shards(
    settings: OrderSettings, seed: int, positions: Integers, populations: Sequence[DatasetSize]
) -> list[tuple[int, int]]:
    """(dataset, shard) of the windows that the positions lie in and of one window more, in the order of their use."""
    dataset, place = interleave(positions, [population.weight for population in populations])
    result: dict[tuple[int, int], None] = {}
    for number, population in enumerate(populations):
        shards, mine = population.shards, place[dataset == number]
        if not len(mine):
            continue
        windows = -(-len(shards) // settings.window)
        first, last = (_window(settings, seed, number, population, int(end)) for end in (mine.min(), mine.max()))
        for turn, window in (divmod(count, windows) for count in range(first, last + 2)):
            order = shard_order(seed, turn, number, len(shards))
            current = order[window * settings.window : (window + 1) * settings.window]
            result |= dict.fromkeys((number, shard) for shard in current.tolist())
    return list(result)


def _window(settings: OrderSettings, seed: int, number: int, population: DatasetSize, place: int) -> int:
    """Number of the window, counted through the epochs, that a dataset's visit lies in."""
    shards = population.shards
    epoch, within = divmod(place, population.samples)
    ends = np.cumsum(np.array(shards)[shard_order(seed, epoch, number, len(shards))])
    return epoch * -(-len(shards) // settings.window) + int(np.searchsorted(ends, within, "right")) // settings.window
