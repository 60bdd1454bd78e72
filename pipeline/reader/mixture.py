"""The open datasets that a reader draws from, as one sequence of rows."""

from collections.abc import Sequence

import numpy as np

from pipeline.cache import ShardCache
from pipeline.concat import ConcatDataset
from pipeline.dataset import Manifest
from pipeline.reader.settings import ReaderSettings
from pipeline.reader.table import sample_table
from pipeline.sampling.order import OrderSettings, upcoming_shards
from pipeline.sampling.plan import BatchPlan, needed_frames
from pipeline.sampling.views import Integers
from pipeline.settings import UserError
from pipeline.storage import is_remote

EMPTY_JPEG = np.zeros(1, np.uint8)
"""Placeholder for a frame that is not read."""


def _open_cache(settings: ReaderSettings, uri: str) -> ShardCache:
    if settings.cache is None:
        raise UserError(f"{uri} is remote: give data.cache, a folder on a local disk")
    return ShardCache(settings.cache, int(1e9 * settings.cache_gb))


class DatasetMixture(ConcatDataset):
    """The open datasets of a reader, with rows numbered across them. Close it when done."""

    def __init__(self, settings: ReaderSettings) -> None:
        """Open all datasets.

        Raises:
            UserError: a dataset, the cache or the neighbour table cannot be used.
        """
        self._order, self._seed = settings.order, settings.seed
        uris = [entry.shards for entry in settings.mixture()]
        remote = [uri for uri in uris if is_remote(uri)]
        super().__init__(uris, _open_cache(settings, remote[0]) if remote else None)
        if self.cache is not None:
            check_cache_size(self.cache, settings.order, [self.datasets[number].manifest for number in self.storages])
        self.table = sample_table(settings, self.datasets)

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
        self.advise_frames(rows, frames)

    def request(self, positions: Integers) -> None:
        """Start to fetch the shards of remote datasets that `positions` (n,) and the window after them need."""
        if self.cache is None:
            return
        if self._order.kind == "global":
            shards = [(n, s) for n, dataset in enumerate(self.datasets) for s in range(len(dataset.manifest.shards))]
        else:
            shards = upcoming_shards(self._order, self._seed, positions, self.table.dataset_sizes)
        for number, storage in self.storages.items():
            own_shards = [shard for dataset, shard in shards if dataset == number]
            self.cache.request(storage, self.datasets[number].manifest, own_shards)


def check_cache_size(cache: ShardCache, order: OrderSettings, remote: Sequence[Manifest]) -> None:
    """Check that a cache can hold the shards of remote datasets in use at a time: one window and the next.

    Raises:
        UserError: its limit is too small.
    """
    shards = None if order.kind == "global" else 2 * order.window
    datasets = {manifest.dataset_hash: manifest for manifest in remote}
    sizes = [sorted((shard.bytes for shard in dataset.shards), reverse=True) for dataset in datasets.values()]
    needed = sum(sum(size[:shards]) for size in sizes)
    if needed > cache.limit:
        reason = (
            "data.order.kind global, which draws from all shards: raise it, or set data.order.kind to window"
            if order.kind == "global"
            else f"two windows of {order.window} shards: raise it, or lower data.order.window"
        )
        raise UserError(f"data.cache_gb is {cache.limit / 1e9:g} but {needed / 1e9:.3g} are needed for {reason}")
