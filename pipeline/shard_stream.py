"""A `webdataset` pipeline that reads shards in sequence, from a disk or an object store, equally on all workers."""

import io
import random
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander
from webdataset.utils import pytorch_worker_info

from pipeline.dataset import ShardDataset
from pipeline.record import TRIPLET_NAMES, frame_names, header_bytes
from pipeline.sampling.frames import FrameSampler, check_sampler, draw
from pipeline.sampling.order import shard_order
from pipeline.sampling.philox import Stream, uniforms
from pipeline.settings import UserError
from pipeline.storage import open_storage

Dict = dict[str, Any]


class Part(NamedTuple):
    """Consecutive samples of one shard."""

    first_row: int
    samples: int


def cut(samples: NDArray[np.int64], order: NDArray[np.int64], part: int, parts: int) -> list[Part]:
    """What one of `parts` equal parts of an epoch reads, for shards of `samples` (n,) samples that are read in `order`.

    The parts are disjoint and have equal numbers of samples; up to `parts` - 1 samples at the end are in none.
    """
    first_rows = (np.cumsum(samples) - samples)[order]
    ends = np.cumsum(samples[order])
    each = int(ends[-1]) // parts
    start, stop = part * each, (part + 1) * each
    result = []
    for first_row, begin, end in zip(first_rows.tolist(), (ends - samples[order]).tolist(), ends.tolist(), strict=True):
        low, high = max(start, begin), min(stop, end)
        if low < high:
            result.append(Part(first_row + low - begin, high - low))
    return result


class _Span(io.RawIOBase):
    """The bytes [start, stop) of a stream, as a stream of their own."""

    def __init__(self, stream: BinaryIO, start: int, stop: int) -> None:
        self._stream, self._left = stream, stop - start
        stream.seek(start)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class _Shards:
    """First stage of a pipeline: the samples of this rank and worker, with their members as bytes."""

    def __init__(self, shards: str | Path, seed: int, shuffle: bool) -> None:
        self.dataset = ShardDataset(shards)
        self.storage = open_storage(str(shards))
        self.seed, self.shuffle = seed, shuffle
        self.samples = np.array([shard.samples for shard in self.dataset.manifest.shards], np.int64)
        self.epoch = torch.zeros((), dtype=torch.int64)
        self.epoch.share_memory_()  # type: ignore[no-untyped-call]  # the workers of a DataLoader see it change
        manifest = self.dataset.manifest
        names = {"triplets": TRIPLET_NAMES[0], "frames": frame_names(1)[0]}
        self._first_member = "jpg" if manifest.media == "images" else names[manifest.layout]

    def __call__(self) -> Iterator[Dict]:
        epoch = int(self.epoch)
        order = np.arange(len(self.samples))
        if self.shuffle:
            order = shard_order(self.seed, epoch, 0, len(self.samples))
        rank, ranks, worker, workers = pytorch_worker_info()
        for part in cut(self.samples, order, rank * workers + worker, ranks * workers):
            for number, sample in enumerate(self._read(part)):
                yield {**sample, "__row__": part.first_row + number, "__epoch__": epoch}

    def _start(self, row: int) -> int:
        """First byte of a sample in its shard."""
        return self.dataset.span(row, 0)[0] - header_bytes(f"{self.dataset.keys[row]}.{self._first_member}")

    def _read(self, part: Part) -> Iterator[Dict]:
        first, last = part.first_row, part.first_row + part.samples
        number = int(self.dataset.shard[first])
        shard = self.dataset.manifest.shards[number]
        ends_shard = last == len(self.dataset) or self.dataset.shard[last] != number
        url = f"{self.storage}/{shard.file}"
        keys = iter(self.dataset.keys[first:last].to_pylist())
        try:
            with self.storage.open(shard.file) as stream:
                span = _Span(stream, self._start(first), shard.bytes if ends_shard else self._start(last))
                for sample in group_by_keys(tar_file_expander([{"url": url, "stream": span}])):
                    if sample["__key__"] != next(keys, None):
                        raise UserError(f"shard {url} is not in the order of the index. {self.dataset.repair_hint}")
                    yield sample
        except (OSError, tarfile.TarError) as error:
            raise UserError(f"cannot read shard {url}: {error}. {self.dataset.repair_hint}") from error
        if (missing := next(keys, None)) is not None:
            raise UserError(f"shard {url} ends before sample {missing}. {self.dataset.repair_hint}")


class _Draw:
    """Stage that keeps the frames that a sampler draws, as `0.jpg`, `1.jpg`, ... in its order."""

    def __init__(self, shards: _Shards, sampler: FrameSampler) -> None:
        manifest = shards.dataset.manifest
        check_sampler(sampler, manifest.media, manifest.layout, shards.dataset.folder)
        self._dataset, self._seed, self._sampler = shards.dataset, shards.seed, sampler

    def __call__(self, samples: Iterable[Dict]) -> Iterator[Dict]:
        for sample in samples:
            row, layout = sample["__row__"], self._dataset.manifest.layout
            uniform = uniforms(self._seed, Stream.SAMPLE, sample["__epoch__"], row, self._sampler.draws)[0]
            names = [name for name in sample if name.endswith("jpg")]  # members are in the order of the frames
            numbers = draw(self._sampler, layout, len(names), float(self._dataset.duration_s[row]), uniform).tolist()
            drawn = {f"{index}.jpg": sample[names[number]] for index, number in enumerate(numbers)}
            kept = {name: value for name, value in sample.items() if name not in names}
            yield {**kept, "__frames__": numbers, **drawn}


class _Shuffle:
    """Stage that shuffles samples within a buffer, by seed, epoch, rank and worker alone."""

    def __init__(self, shards: _Shards, size: int) -> None:
        self._shards, self._size = shards, size

    def __call__(self, samples: Iterable[Dict]) -> Iterator[Dict]:
        rank, _, worker, _ = pytorch_worker_info()
        draws = random.Random(f"{self._shards.seed} {int(self._shards.epoch)} {rank} {worker}")
        shuffled: Iterator[Dict] = webdataset.filters.shuffle(self._size, initial=self._size, rng=draws)(samples)
        return shuffled


class ShardStream(webdataset.WebDataset):  # type: ignore[misc]  # webdataset has no types
    """A `webdataset.WebDataset` whose methods (`decode`, `map`, `to_tuple`, `batched`, ...) append stages.

    Samples are those that webdataset reads from the tars, with `__row__`, the row in the index, and `__epoch__`.
    """

    def __init__(self, shards: str | Path, seed: int, shuffle: bool) -> None:
        """Open the dataset at a path or URI."""
        self._shards = _Shards(shards, seed, shuffle)
        webdataset.DataPipeline.__init__(self, self._shards)  # the one of WebDataset gives each worker whole shards

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, here and in the workers of a DataLoader, also in persistent ones."""
        self._shards.epoch.fill_(epoch)

    def draw(self, sampler: FrameSampler) -> "ShardStream":
        """Keep only the frames that a sampler draws, as `0.jpg`, `1.jpg`, ..., and their numbers in `__frames__`.

        They are those that `ClipDataset` draws for the index (epoch, row). Before `decode`, so that only these are
        decoded.

        Raises:
            UserError: the samples do not have what it draws.
        """
        return self.compose(_Draw(self._shards, sampler))  # type: ignore[no-any-return]

    def shuffle(self, size: int) -> "ShardStream":
        """Shuffle within a buffer of `size` samples, by seed, epoch, rank and worker alone."""
        return self.compose(_Shuffle(self._shards, size))  # type: ignore[no-any-return]

    def samples_per_worker(self, ranks: int, workers: int) -> int:
        """Samples that each worker yields in an epoch; a DataLoader without workers counts as one."""
        return int(self._shards.samples.sum()) // (ranks * max(1, workers))


def streaming(shards: str | Path, seed: int = 0, shuffle_shards: bool = True) -> ShardStream:
    """Samples of the dataset at a path or URI, read in sequence, as a `webdataset.WebDataset`.

    Every rank and DataLoader worker gets the same number of samples, none of them twice: the samples, in the order of
    the shards in this epoch, are cut into equal parts, also within shards, of which only these bytes are read. What
    does not divide, fewer samples than there are workers, is left out; with `shuffle_shards` other ones each epoch.

    The order is a function of seed, epoch, ranks and workers. `set_epoch` must be called before each epoch, or every
    epoch is the same, and a run continues exactly at the start of an epoch. Within one it does not: there is no state
    to save, as what is in buffers of `shuffle` and workers is lost; to continue there, read and drop the samples that
    were used, or use `ClipDataset.visits` or the `Loader`.

    Raises:
        UserError: there is no finished dataset, or it is damaged.
    """
    return ShardStream(shards, seed, shuffle_shards)
