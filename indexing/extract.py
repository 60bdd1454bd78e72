"""Features of images and clips: center crops by DALI, the CLS token of a backbone by torch."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from torch import Tensor

from indexing.store import unit_rows
from pipeline.dataset import ShardDataset
from pipeline.reader.faults import BatchFrame, explain_failure
from pipeline.reader.graph import DALI_ERRORS, NORMALIZATION, dali_decoder, decode_frames
from pipeline.settings import UserError
from pipeline.storage import Storage
from training.backbone.device import default_device
from training.backbone.families import BackboneOptions
from training.backbone.frozen import read_frozen
from training.backbone.numerics import pin_float32

PARTS = ".features"
RESIZE_OVER_CROP = 256 / 224
"""Shorter side before the center crop, in crop sizes (the usual ImageNet evaluation transform)."""


def part_name(shard: int) -> str:
    """The file with the features of a shard."""
    return f"{PARTS}/{shard:06d}.npy"


def crop_graph(feed: Callable[[], list[Any]], size: int, batch_size: int, threads: int, device: int | None) -> Pipeline:
    """Encoded images in, normalized (n, 3, size, size) center crops out; on GPU `device`, or on the CPU if None."""

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=device)  # type: ignore[untyped-decorator]
    def graph() -> DataNode:
        encoded = fn.external_source(source=feed, batch=True, dtype=types.UINT8, ndim=1)
        image = decode_frames(encoded, on_gpu=device is not None)
        image = fn.resize(image, resize_shorter=round(RESIZE_OVER_CROP * size), interp_type=types.INTERP_CUBIC)
        return fn.crop_mirror_normalize(image, crop=(size, size), **NORMALIZATION)

    pipeline: Pipeline = graph()
    pipeline.build()
    return pipeline


def spaced_frames(num_frames: int, count: int) -> NDArray[np.int64]:
    """Up to `count` frame numbers, the middles of as many equal parts of a clip; with one, its middle frame."""
    return np.unique((2 * np.arange(count) + 1) * num_frames // (2 * count))


class _Feed:
    """The source of a graph; the graph does not refer to what owns it, so both are freed at once."""

    batches: Iterator[list[Any]] = iter(())

    def __call__(self) -> list[Any]:
        return next(self.batches)


class CropFeatures:
    """Features of samples of a dataset: unit vectors along the mean CLS token of center crops of some frames."""

    def __init__(
        self,
        dataset: ShardDataset,
        embed: Callable[[Tensor], Tensor],
        size: int,
        device: torch.device,
        batch_size: int,
        threads: int,
        frames: int = 1,
    ) -> None:
        """Features by a network on a device.

        Args:
            dataset: the samples.
            embed: normalized crops (n, 3, size, size) to features (n, D).
            size: side of a crop, pixels.
            device: where the network is.
            batch_size: crops in a forward pass.
            threads: CPU threads that decode and resize.
            frames: frames of a clip, evenly spaced, whose features are averaged.
        """
        self._dataset, self._embed, self._frames, self._batch_size = dataset, embed, frames, batch_size
        self._device_id = (device.index or 0) if device.type == "cuda" else None
        self._feed = _Feed()
        self._pipeline = crop_graph(self._feed, size, batch_size, threads, self._device_id)

    def _crops(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> Iterator[Tensor]:
        starts = range(0, len(rows), self._batch_size)
        parts = (slice(start, start + self._batch_size) for start in starts)
        self._feed.batches = (self._dataset.frames(rows[part], frames[part]) for part in parts)
        pipeline = self._pipeline
        while True:
            try:
                (crops,) = pipeline.run()
            except StopIteration:
                pipeline.reset()
                return
            except DALI_ERRORS as error:
                raise self._explain(rows, frames, error) from error
            yield torch.utils.dlpack.from_dlpack(crops.as_tensor())

    def _explain(self, rows: NDArray[np.int64], frames: NDArray[np.int64], error: Exception) -> UserError:
        """Name the image that DALI failed on."""
        spans = zip(rows.tolist(), frames.tolist(), strict=True)
        batch = [BatchFrame(self._dataset, row, frame) for row, frame in spans]
        return explain_failure(error, "while computing features", batch, dali_decoder(self._device_id))

    @torch.no_grad()
    def __call__(self, rows: NDArray[np.int64], source: str) -> NDArray[np.float16]:
        """(n, D) unit vectors of some rows of the dataset, at least one; `source` is their name in errors.

        Raises:
            UserError: an image is damaged, or a feature is zero or not finite.
        """
        chosen = [spaced_frames(count, self._frames) for count in self._dataset.num_frames[rows].tolist()]
        counts = np.array([len(frames) for frames in chosen])
        crops = self._crops(rows.repeat(counts), np.concatenate(chosen))
        features = np.concatenate([self._embed(batch).float().cpu().numpy() for batch in crops])
        first = np.cumsum(counts) - counts
        means = np.add.reduceat(features.astype(np.float64), first) / counts[:, None]
        return unit_rows(means, rows, source)


class ShardFeatures:
    """Writes the features of shards. Batches never span two shards, so the bytes of a shard depend on it alone."""

    def __init__(
        self,
        shards: Path,
        weights: Path,
        out: Storage,
        batch_size: int,
        threads: int,
        options: BackboneOptions | None = None,
        frames: int = 1,
    ) -> None:
        self._dataset = ShardDataset(shards)
        self._weights, self._options = weights, options
        self._out = out
        self._batch_size, self._threads, self._frames = batch_size, threads, frames
        pin_float32()
        torch.set_num_threads(threads)  # the order of sums depends on the number of threads

    @cached_property
    def _extract(self) -> CropFeatures:
        device = torch.device(default_device(), 0)
        backbone = read_frozen(self._weights, self._options)
        module = backbone.module.to(device)
        return CropFeatures(
            self._dataset,
            lambda crops: module(crops).cls,
            backbone.image_size,
            device,
            self._batch_size,
            self._threads,
            self._frames,
        )

    def features(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D) unit vectors of some rows of the dataset, at least one."""
        return self._extract(rows, f"the features by {self._weights}")

    def run(self, item: int) -> int:
        """Write the features of shard number `item`; returns how many there are."""
        rows = np.flatnonzero(self._dataset.shard == item)
        features = self.features(rows)
        with self._out.atomic_write(part_name(item)) as path, path.open("wb") as stream:
            np.save(stream, features)
        return len(features)
