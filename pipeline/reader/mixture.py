"""The datasets that a reader draws from, as one row of samples."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from pipeline.dataset import Manifest, ShardDataset
from pipeline.neighbours import read_neighbours
from pipeline.reader.cache import ShardCache
from pipeline.sampling.order import DatasetSize, OrderSettings, coming_shards
from pipeline.sampling.plan import BatchPlan, PlanSettings, SampleTable, needed_frames
from pipeline.sampling.views import Integers
from pipeline.settings import COUNT_LIMIT, FACTOR_LIMIT, Settings, UserError
from pipeline.storage import Uri, open_storage

EMPTY_JPEG = np.zeros(1, np.uint8)
"""Stands for a frame that is not read."""


class MixSettings(Settings):
    """One more dataset to draw from."""

    shards: Uri
    """Folder of a shard dataset, or its address such as s3://bucket/folder."""
    weight: float = Field(1.0, gt=0, le=FACTOR_LIMIT)
    """How often it is drawn from, relative to `weight` of the first dataset."""


class SourceSettings(PlanSettings):
    """Where the samples come from and what is drawn for them."""

    shards: Uri
    """Folder of a shard dataset, or its address such as s3://bucket/folder."""
    weight: float = Field(1.0, gt=0, le=FACTOR_LIMIT)
    """How often it is drawn from, relative to the datasets in `mix`."""
    mix: tuple[MixSettings, ...] = ()
    """More datasets: '[{"shards": "DIR", "weight": 0.5}]'. Each has epochs of its own."""
    neighbours: Path | None = None
    """Folder with `neighbours.parquet`: the auxiliary frame is then one of an image's nearest neighbours."""
    cache: Path | None = None
    """Folder on a local disk for shards of remote datasets."""
    cache_gb: float = Field(100.0, gt=0, le=COUNT_LIMIT)
    """Most gigabytes of shards in `cache`."""

    @model_validator(mode="after")
    def _boxes_fit_auxiliary_frames(self) -> "SourceSettings":
        if self.neighbours is not None and self.views.auxiliary_crop == "current":
            raise ValueError(
                "views.auxiliary_crop = current goes with frames of one clip only, as neighbours are of other sizes: "
                "leave it out, or neighbours"
            )
        return self

    def mixture(self) -> tuple[MixSettings, ...]:
        """All datasets with their weights."""
        return (MixSettings(shards=self.shards, weight=self.weight), *self.mix)


class Origin(NamedTuple):
    """Where a row of a mixture comes from."""

    dataset: ShardDataset
    row: int
    """Row within the dataset."""
    key: str
    """Sample key."""


def is_remote(place: str) -> bool:
    """Whether a place lies in an object store."""
    return "://" in place


def _check_cache(cache: ShardCache, order: OrderSettings, remote: Sequence[Manifest]) -> None:
    """Refuse a cache that cannot hold what is in use at a time: this window of shards and the next.

    Raises:
        UserError: it cannot.
    """
    sizes = [sorted((shard.bytes for shard in manifest.shards), reverse=True) for manifest in remote]
    shards = None if order.kind == "global" else 2 * order.window
    needed = sum(sum(size[:shards]) for size in sizes)
    if needed > cache.limit:
        why = (
            "data.order.kind global draws from all shards at any time; give it, or set data.order.kind to window"
            if order.kind == "global"
            else f"two windows of {order.window} shards; give it, or lower data.order.window"
        )
        raise UserError(f"data.cache_gb is {cache.limit / 1e9:g} but {needed / 1e9:.3g} are needed for {why}")


class DatasetMixture:
    """The open datasets of a reader; their rows are counted through. Close it when done."""

    def __init__(self, settings: SourceSettings) -> None:
        """Open all datasets.

        Raises:
            UserError: one of them, the cache or the neighbour table cannot be used.
        """
        self._order, self._seed = settings.order, settings.seed
        self._cache: ShardCache | None = None
        mixture = settings.mixture()
        remote = {place: open_storage(place) for place in (entry.shards for entry in mixture) if is_remote(place)}
        if remote:
            if settings.cache is None:
                raise UserError(f"{next(iter(remote))} is remote: give data.cache, a folder on a local disk")
            self._cache = ShardCache(settings.cache, int(1e9 * settings.cache_gb))
        self.datasets: list[ShardDataset] = []
        for entry in mixture:
            fetch = None
            if self._cache is not None and entry.shards in remote:
                fetch = functools.partial(self._cache.fetch, remote[entry.shards])
            self.datasets.append(ShardDataset(entry.shards, fetch))
            if not len(self.datasets[-1]):
                raise UserError(f"{entry.shards} holds no samples")
        self._remote = [remote.get(entry.shards) for entry in mixture]
        if self._cache is not None:
            held = {d.manifest.dataset_hash: d.manifest for d, s in zip(self.datasets, self._remote, strict=True) if s}
            _check_cache(self._cache, settings.order, list(held.values()))
        self.table = self._table(settings)
        self._starts = np.cumsum([0, *(len(dataset) for dataset in self.datasets[:-1])])

    def _table(self, settings: SourceSettings) -> SampleTable:
        auxiliary, neighbours = settings.sandwich.auxiliary, None
        if settings.neighbours is not None:
            if len(self.datasets) > 1:
                raise UserError("data.neighbours and data.mix do not go together: a table belongs to one dataset")
            neighbours = read_neighbours(settings.neighbours, self.datasets[0].manifest).astype(np.int64)
        for dataset in self.datasets:
            if neighbours is None and dataset.manifest.media == "images" and auxiliary:
                raise UserError(
                    f"{dataset.folder} holds still images, which have no past and future: give --data.neighbours, "
                    "or set data.sandwich.auxiliary to an empty list to train without the auxiliary branch"
                )
            if dataset.manifest.layout == "triplets" and len(set(auxiliary)) < len(auxiliary):
                raise UserError(
                    f"{dataset.folder} holds triplets of one past and one future frame: "
                    f"data.sandwich.auxiliary cannot be {','.join(auxiliary)}"
                )

        def column(name: str) -> Integers:
            return np.concatenate([getattr(dataset, name) for dataset in self.datasets]).astype(np.int64)

        triplets = [np.full(len(d), d.manifest.layout == "triplets") for d in self.datasets]
        populations = [
            DatasetSize(tuple(np.bincount(dataset.shard, minlength=1).tolist()), entry.weight)
            for dataset, entry in zip(self.datasets, settings.mixture(), strict=True)
        ]
        return SampleTable(
            num_frames=column("num_frames"),
            height=column("height"),
            width=column("width"),
            neighbours=neighbours,
            populations=tuple(populations),
            triplets=np.concatenate(triplets),
        )

    def _split(self, rows: Integers) -> Iterator[tuple[ShardDataset, Integers, Integers]]:
        """Each dataset with the places (m,) of its rows among `rows`, and these rows within it (m,)."""
        number = np.searchsorted(self._starts, rows, side="right") - 1
        for index in np.unique(number).tolist():
            places = np.flatnonzero(number == index)
            yield self.datasets[index], places, rows[places] - self._starts[index]

    def frames(self, rows: Integers, frames: Integers) -> list[np.ndarray]:
        """JPEG bytes, (size,) uint8 each, of frames (n,) of rows (n,).

        Raises:
            UserError: a shard cannot be read.
        """
        result = [EMPTY_JPEG] * len(rows)
        for dataset, places, inner in self._split(rows):
            for place, data in zip(places.tolist(), dataset.frames(inner, frames[places]), strict=True):
                result[place] = data
        return result

    def origin(self, row: int) -> Origin:
        """Where a row comes from."""
        ((dataset, _, inner),) = self._split(np.array([row]))
        return Origin(dataset, int(inner[0]), str(dataset.keys[int(inner[0])]))

    def advise(self, rows: Integers, frames: Integers) -> None:
        """Have frames (n,) of rows (n,), which will be read later, read ahead by the kernel."""
        for dataset, places, inner in self._split(rows):
            dataset.advise(inner, frames[places])

    def request(self, positions: Integers) -> None:
        """Fetch the shards of remote datasets that the visits at `positions`, and those of the next window, need."""
        if self._cache is None:
            return
        if self._order.kind == "global":
            coming = [(n, s) for n, d in enumerate(self.datasets) for s in range(len(d.manifest.shards))]
        else:
            coming = coming_shards(self._order, self._seed, positions, self.table.populations)
        for number, storage in enumerate(self._remote):
            if storage is not None:
                mine = [shard for dataset, shard in coming if dataset == number]
                self._cache.request(storage, self.datasets[number].manifest, mine)

    def close(self) -> None:
        """Close all files and stop downloads."""
        if self._cache is not None:
            self._cache.close()
        for dataset in self.datasets:
            dataset.close()


def read_frames(plan: BatchPlan, mixture: DatasetMixture) -> list[list[np.ndarray]]:
    """The encoded frames of a plan: for each of its 1 + A columns b arrays, `EMPTY_JPEG` where none is needed.

    Raises:
        UserError: a shard cannot be read.
    """
    needed = needed_frames(plan)
    result = iter(mixture.frames(plan.source_rows[needed], plan.frames[needed]))
    rows = [[next(result) if expected else EMPTY_JPEG for expected in row] for row in needed.tolist()]
    return [list(column) for column in zip(*rows, strict=True)]
