"""The order of an endless run as the `sampler` of a torch DataLoader."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.sampling.order import DatasetSize, OrderSettings, sample_order

_PLANNED = 4096
"""Visits whose rows are computed at a time."""


class Visits:
    """The indices of a rank for `torch.utils.data.DataLoader(sampler=...)`: one epoch each time it is iterated.

    Visit v of the run is a pure function of order, seed, datasets and weights: all ranks together make the same visits
    in the same order whatever their number, each rank equally many, and none in two places. The index of a visit is
    (epoch of its dataset, row), with which `ClipDataset` draws the same frames anywhere.
    """

    def __init__(
        self, order: OrderSettings, seed: int, datasets: Sequence[DatasetSize], rank: int = 0, ranks: int = 1
    ) -> None:
        """Visits of the samples of `datasets` by `rank`."""
        self._order, self._seed, self._datasets = order, seed, datasets
        self._rank, self._ranks = rank, ranks
        self.done = 0
        """Visits that were handed out; set it to the number of those that were used, in order to continue a run."""

    def __len__(self) -> int:
        return sum(size.samples for size in self._datasets) // self._ranks

    def __iter__(self) -> Iterator[tuple[int, int]]:
        end = (self.done // len(self) + 1) * len(self)
        while self.done < end:
            positions = np.arange(self.done, min(self.done + _PLANNED, end)) * self._ranks + self._rank
            visited = sample_order(self._order, self._seed, positions, self._datasets)
            for epoch, row in zip(visited.epoch.tolist(), visited.row.tolist(), strict=True):
                self.done += 1
                yield epoch, row
