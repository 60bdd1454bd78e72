"""A map-style dataset of clips and images: frames as NumPy arrays for any training code, without torch, DALI or Ray."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.cache import ShardCache
from pipeline.clip import Clip
from pipeline.concat import ConcatDataset
from pipeline.dataset import ShardDataset
from pipeline.neighbours import read_neighbours
from pipeline.sampling.frames import FrameSampler, check_sampler, draw
from pipeline.sampling.order import DatasetSize, OrderSettings
from pipeline.sampling.philox import Stream, uniforms
from pipeline.sampling.visits import Visits
from pipeline.settings import UserError
from pipeline.shared import SharedTable
from pipeline.storage import is_remote


class Sample(NamedTuple):
    """Frames of one clip; the fields can be batched by torch's `default_collate`, if the frames are of one size."""

    frames: Any
    """n frames (height, width, 3) of RGB uint8, or what `transform` made of them."""
    numbers: NDArray[np.int64]
    """(n,) the numbers of the frames in their clip."""
    times_s: NDArray[np.float64]
    """(n,) seconds after the first frame of the clip; NaN in layout `triplets`."""
    rows: NDArray[np.int64]
    """(n,) dataset rows that the frames are from: the clip's own, or that of a neighbour."""
    label: int
    """Number of the class in its dataset, -1 for none."""
    key: str
    source: str
    """Path of the input in the data folder that the shards were made from."""


class ClipDataset:
    """The clips of one or several datasets, for `torch.utils.data.DataLoader` or other code that takes `len` and [].

    `clips[row]` draws frames with Python's `random`, which a DataLoader seeds in each worker from torch's seed: new
    draws each epoch, equal for the same seed and number of workers. `clips[epoch, row]` draws from (seed, epoch, row)
    alone: the same frames in any process, and those that the `Loader` draws at this epoch and row; `visits` yields such
    indices. A pickle has a few hundred bytes, and workers map the index instead of copying it. Methods may be called
    from several threads.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        sampler: FrameSampler | None = None,
        transform: Callable[[list[NDArray[np.uint8]]], Any] | None = None,
        neighbours: str | Path | None = None,
        cache: ShardCache | None = None,
        seed: int = 0,
    ) -> None:
        """Open datasets.

        Args:
            shards: a folder or a URI such as s3://bucket/folder, or several, whose rows are numbered across them.
            sampler: chooses the frames of a clip, such as `Sandwich()`, `Uniform(8)`, `Every(0.5)`; None for all.
            transform: is called with the list of a sample's frames, (height, width, 3) of RGB uint8 each.
            neighbours: folder of a neighbour table of the only dataset; a sample's frames are then followed by those
                that `sampler` takes of one of its neighbours, drawn evenly.
            cache: where shards of remote datasets are stored.
            seed: of the draws for indices (epoch, row).

        Raises:
            UserError: a dataset or the table cannot be used, or does not have what the sampler draws.
        """
        uris = [str(shards)] if isinstance(shards, str | Path) else [str(uri) for uri in shards]
        if cache is None and (remote := [uri for uri in uris if is_remote(uri)]):
            raise UserError(f"{remote[0]} is remote: give cache=ShardCache(FOLDER, BYTES), a folder on a local disk")
        if neighbours is not None and len(uris) > 1:
            raise UserError("neighbours cannot be used with several datasets: a table belongs to one")
        self._data = ConcatDataset(uris, cache)
        self._sampler, self._transform, self._seed = sampler, transform, seed
        self._neighbours_folder = None if neighbours is None else Path(neighbours)
        self._neighbours = self._shared_neighbours()
        for dataset in self._data.datasets:
            check_sampler(sampler, dataset.manifest.media, dataset.manifest.layout, dataset.folder)

    def _shared_neighbours(self) -> SharedTable | None:
        if self._neighbours_folder is None:
            return None
        rows = read_neighbours(self._neighbours_folder, self._data.datasets[0].manifest)
        return SharedTable(pa.table({"rows": pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])}))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_neighbours": self._neighbours and self._neighbours.reference}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        reference = state["_neighbours"]
        self._neighbours = reference and (SharedTable.attach(reference) or self._shared_neighbours())

    @property
    def datasets(self) -> list[ShardDataset]:
        """The datasets, in the order of their rows."""
        return self._data.datasets

    def __len__(self) -> int:
        return len(self._data)

    def _row(self, row: int) -> int:
        if not -len(self) <= row < len(self):
            raise IndexError(f"there is no row {row}: the rows are 0 to {len(self) - 1}")
        return int(row) % len(self)

    def clip(self, row: int) -> Clip:
        """The sample at a row, of which nothing is decoded yet.

        Raises:
            IndexError: there is no such row.
        """
        dataset, own_row, _ = self._data.origin(self._row(row))
        return Clip(dataset, own_row)

    def neighbours(self, row: int) -> NDArray[np.int64]:
        """Rows (k,) of the neighbours of a row, nearest first.

        Raises:
            IndexError: there is no such row.
            UserError: the dataset was opened without a neighbour table.
        """
        if self._neighbours is None:
            raise UserError("this dataset was opened without neighbours: give neighbours=FOLDER of a neighbour table")
        return np.array(self._neighbours.table["rows"][self._row(row)].as_py(), np.int64)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        epoch, row = index if isinstance(index, tuple) else (None, index)
        row = self._row(row)
        draws = self._sampler.draws if self._sampler else 0
        draws += self._neighbours is not None
        if epoch is None:
            uniform = np.array([random.random() for _ in range(draws)])
        else:
            uniform = uniforms(self._seed, Stream.SAMPLE, epoch, row, draws)[0]
        rows = [row]
        if self._neighbours is not None:
            nearest = self.neighbours(row)
            rows.append(int(nearest[int(uniform[0] * len(nearest))]))
            uniform = uniform[1:]
        clips = [self.clip(row) for row in rows]
        numbers = [self._draw(clip, uniform) for clip in clips]
        frames = [frame for clip, own in zip(clips, numbers, strict=True) for frame in clip.frames(own)]
        return Sample(
            frames=frames if self._transform is None else self._transform(frames),
            numbers=np.concatenate(numbers),
            times_s=np.concatenate([clip.times_s[own] for clip, own in zip(clips, numbers, strict=True)]),
            rows=np.repeat(rows, [len(own) for own in numbers]),
            label=clips[0].label,
            key=clips[0].key,
            source=clips[0].source,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))

    def _draw(self, clip: Clip, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Numbers of the frames of a clip that a sample has."""
        if self._sampler is None:
            return np.arange(len(clip))
        return draw(self._sampler, clip.layout, len(clip), clip.duration_s, uniform)

    def visits(
        self, order: OrderSettings | None = None, weights: Sequence[float] = (), rank: int = 0, ranks: int = 1
    ) -> Visits:
        """Indices for the `sampler` of a DataLoader; an epoch is `len(self) // ranks` visits of a rank.

        Args:
            order: shuffles everything (default), or windows of shards, of which a cache then holds a few at a time.
            weights: how often each dataset is drawn from, relative to the others; each has its own epochs. Default:
                their numbers of samples, so that each sample is visited once an epoch.
            rank: which part of the visits to yield.
            ranks: number of parts.

        Raises:
            UserError: there is no such rank, or not one weight for each dataset.
        """
        if not 0 <= rank < ranks:
            raise UserError(f"there is no rank {rank} of {ranks}: ranks are numbered from 0")
        if weights and (len(weights) != len(self.datasets) or min(weights) <= 0):
            raise UserError(f"weights = {list(weights)} must be {len(self.datasets)} positive numbers, one per dataset")
        sizes = tuple(
            DatasetSize(tuple(np.bincount(dataset.shard, minlength=1).tolist()), weight)
            for dataset, weight in zip(self.datasets, weights or map(len, self.datasets), strict=True)
        )
        return Visits(order or OrderSettings(), self._seed, sizes, rank, ranks)

    def describe(self) -> str:
        """What the datasets hold, in lines to print."""
        return "\n".join(_description(dataset) for dataset in self.datasets)

    def close(self) -> None:
        """Close the shards; they are reopened when needed."""
        for dataset in self.datasets:
            dataset.close()


def _description(dataset: ShardDataset) -> str:
    manifest = dataset.manifest
    lines = [
        f"{dataset.folder}: {len(dataset)} samples of {len(manifest.classes)} classes from {manifest.media}, "
        f"split {manifest.split}, layout {manifest.layout}",
        f"  {manifest.frames} frames, {sum(shard.bytes for shard in manifest.shards) / 1e9:.3f} GB in "
        f"{len(manifest.shards)} shards, {manifest.rejects} of {manifest.inputs} inputs rejected",
        f"  width {_range(dataset.width)}, height {_range(dataset.height)} pixels",
    ]
    if manifest.media == "clips" and manifest.layout == "frames":
        rate = dataset.num_frames / dataset.duration_s
        lines.append(
            f"  {_range(dataset.num_frames)} frames in {_range(dataset.duration_s)} s, {_range(rate)} frames per second"
        )
    return "\n".join([*lines, f"  dataset hash {manifest.dataset_hash}"])


def _range(values: NDArray[Any]) -> str:
    """Smallest, median and largest value; one number if they are equal."""
    low, median, high = (f"{value:.4g}" for value in np.quantile(values, (0, 0.5, 1)))
    return low if low == high else f"{low} to {high} (median {median})"
