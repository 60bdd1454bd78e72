"""The open datasets that a reader draws from, as one sequence of rows."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.dataset import ShardDataset
from pipeline.reader.cache import ShardCache, check_cache_size
from pipeline.reader.settings import ReaderSettings
from pipeline.reader.table import sample_table
from pipeline.sampling.order import upcoming_shards
from pipeline.sampling.plan import BatchPlan, needed_frames
from pipeline.sampling.views import Integers
from pipeline.settings import UserError
from pipeline.storage import Storage, open_storage

EMPTY_JPEG = np.zeros(1, np.uint8)
"""Placeholder for a frame that is not read."""


class Origin(NamedTuple):
    """The sample at a row of a mixture."""

    dataset: ShardDataset
    row: int
    """Row within the dataset."""
    key: str
    """Sample key."""


def is_remote(uri: str) -> bool:
    """Whether a path or URI is in an object store."""
    return "://" in uri


def _open_cache(settings: ReaderSettings, uri: str) -> ShardCache:
    if settings.cache is None:
        raise UserError(f"{uri} is remote: give data.cache, a folder on a local disk")
    return ShardCache(settings.cache, int(1e9 * settings.cache_gb))


class DatasetMixture:
    """The open datasets of a reader, with rows numbered across them. Close it when done."""

    def __init__(self, settings: ReaderSettings) -> None:
        """Open all datasets.

        Raises:
            UserError: a dataset, the cache or the neighbour table cannot be used.
        """
        self._order, self._seed = settings.order, settings.seed
        uris = [entry.shards for entry in settings.mixture()]
        self._storages: dict[int, Storage] = {n: open_storage(uri) for n, uri in enumerate(uris) if is_remote(uri)}
        self._cache = _open_cache(settings, uris[min(self._storages)]) if self._storages else None
        self.datasets = [self._open(number, uri) for number, uri in enumerate(uris)]
        if self._cache is not None:
            check_cache_size(self._cache, settings.order, [self.datasets[number].manifest for number in self._storages])
        self.table = sample_table(settings, self.datasets)
        self._starts = np.cumsum([0, *(len(dataset) for dataset in self.datasets[:-1])])

    def _open(self, number: int, uri: str) -> ShardDataset:
        fetch = None
        if self._cache is not None and number in self._storages:
            fetch = functools.partial(self._cache.fetch, self._storages[number])
        dataset = ShardDataset(uri, fetch)
        if not len(dataset):
            raise UserError(f"{uri} holds no samples")
        return dataset

    def _split(self, rows: Integers) -> Iterator[tuple[ShardDataset, Integers, Integers]]:
        """Each dataset among `rows` (n,), with the indices (m,) of its rows, and these rows within it (m,)."""
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            indices = np.flatnonzero(numbers == number)
            yield self.datasets[number], indices, rows[indices] - self._starts[number]

    def origin(self, row: int) -> Origin:
        """The dataset, row within it and key of the sample at `row`."""
        ((dataset, _, (own_row,)),) = self._split(np.array([row]))
        return Origin(dataset, int(own_row), str(dataset.keys[int(own_row)]))

    def frames(self, rows: Integers, frames: Integers) -> list[np.ndarray]:
        """JPEG bytes, (size,) uint8 each, of frames (n,) of rows (n,).

        Raises:
            UserError: a shard cannot be read.
        """
        result = [EMPTY_JPEG] * len(rows)
        for dataset, indices, own_rows in self._split(rows):
            for index, jpeg in zip(indices.tolist(), dataset.frames(own_rows, frames[indices]), strict=True):
                result[index] = jpeg
        return result

    def planned_frames(self, plan: BatchPlan) -> list[list[np.ndarray]]:
        """JPEG bytes of a plan's frames: 1 + A lists of b arrays, `EMPTY_JPEG` for frames that are not needed.

        Raises:
            UserError: a shard cannot be read.
        """
        needed = needed_frames(plan)
        jpegs = iter(self.frames(plan.source_rows[needed], plan.frames[needed]))
        clips = [[next(jpegs) if is_needed else EMPTY_JPEG for is_needed in clip] for clip in needed.tolist()]
        return [list(column) for column in zip(*clips, strict=True)]

    def advise(self, plan: BatchPlan) -> None:
        """Ask the kernel to read the frames of a plan ahead."""
        needed = needed_frames(plan)
        rows, frames = plan.source_rows[needed], plan.frames[needed]
        for dataset, indices, own_rows in self._split(rows):
            dataset.advise(own_rows, frames[indices])

    def request(self, positions: Integers) -> None:
        """Start to fetch the shards of remote datasets that `positions` (n,) and the window after them need."""
        if self._cache is None:
            return
        if self._order.kind == "global":
            shards = [(n, s) for n, dataset in enumerate(self.datasets) for s in range(len(dataset.manifest.shards))]
        else:
            shards = upcoming_shards(self._order, self._seed, positions, self.table.dataset_sizes)
        for number, storage in self._storages.items():
            own_shards = [shard for dataset, shard in shards if dataset == number]
            self._cache.request(storage, self.datasets[number].manifest, own_shards)

    def close(self) -> None:
        """Close all files and stop downloads."""
        if self._cache is not None:
            self._cache.close()
        for dataset in self.datasets:
            dataset.close()
