"""Which samples a step visits: an endless row of epochs, each a permutation of all samples, cut into global batches."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.reader.philox import permutation

_permutation = functools.lru_cache(maxsize=2)(permutation)


class Visits(NamedTuple):
    """Samples of one global batch, (G,) each; a batch may end one epoch and begin the next."""

    epoch: NDArray[np.int64]
    row: NDArray[np.int64]


def visits(seed: int, step: int, global_batch: int, samples: int) -> Visits:
    """Epoch and sample of every place in the global batch of `step` (from 0)."""
    position = np.arange(step * global_batch, (step + 1) * global_batch)
    epoch, place = np.divmod(position, samples)
    row = np.empty_like(place)
    for number in np.unique(epoch):
        here = epoch == number
        row[here] = _permutation(seed, int(number), samples)[place[here]]
    return Visits(epoch, row)
