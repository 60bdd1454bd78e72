"""Several open datasets as one sequence of rows."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.cache import ShardCache
from pipeline.dataset import ShardDataset
from pipeline.settings import UserError
from pipeline.storage import Storage, is_remote, open_storage


class Origin(NamedTuple):
    """The sample at a row of several datasets."""

    dataset: ShardDataset
    row: int
    """Row within the dataset."""
    key: str
    """Sample key."""


class ConcatDataset:
    """Datasets with rows numbered across them. Close it when done."""

    def __init__(self, uris: Sequence[str], cache: ShardCache | None = None) -> None:
        """Open the datasets at paths and URIs; shards of the latter are fetched into `cache`.

        Raises:
            UserError: a dataset cannot be used, or holds no samples.
        """
        self.cache = cache
        self.storages: dict[int, Storage] = {n: open_storage(uri) for n, uri in enumerate(uris) if is_remote(uri)}
        self.datasets = [self._open(number, uri) for number, uri in enumerate(uris)]
        self.starts = np.cumsum([0, *(len(dataset) for dataset in self.datasets[:-1])])

    def _open(self, number: int, uri: str) -> ShardDataset:
        fetch = None
        if self.cache is not None and number in self.storages:
            fetch = functools.partial(self.cache.fetch, self.storages[number])
        dataset = ShardDataset(uri, fetch)
        if not len(dataset):
            raise UserError(f"{uri} holds no samples")
        return dataset

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    def _split(self, rows: NDArray[np.int64]) -> Iterator[tuple[ShardDataset, NDArray[np.int64], NDArray[np.int64]]]:
        """Each dataset among `rows` (n,), with the indices (m,) of its rows, and these rows within it (m,)."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            indices = np.flatnonzero(numbers == number)
            yield self.datasets[number], indices, rows[indices] - self.starts[number]

    def origin(self, row: int) -> Origin:
        """The dataset, row within it and key of the sample at `row`."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        dataset, own_row = self.datasets[number], row - int(self.starts[number])
        return Origin(dataset, own_row, str(dataset.keys[own_row]))

    def frames(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> list[np.ndarray]:
        """JPEG bytes, (size,) uint8 each, of frames (n,) of rows (n,).

        Raises:
            UserError: a shard cannot be read.
        """
        result: dict[int, np.ndarray] = {}
        for dataset, indices, own_rows in self._split(rows):
            result.update(zip(indices.tolist(), dataset.frames(own_rows, frames[indices]), strict=True))
        return [result[index] for index in range(len(rows))]

    def advise_frames(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
        """Ask the kernel to read frames (n,) of rows (n,) ahead of their use; raises as `frames`."""
        for dataset, indices, own_rows in self._split(rows):
            dataset.advise(own_rows, frames[indices])

    def close(self) -> None:
        """Close all files and stop downloads."""
        if self.cache is not None:
            self.cache.close()
        for dataset in self.datasets:
            dataset.close()
