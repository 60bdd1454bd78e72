"""Features of the images of one shard: center crops by DALI, the CLS token of a backbone by torch."""

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
from training.backbone.frozen import FrozenBackbone, read_frozen
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
    ) -> None:
        self._dataset = ShardDataset(shards)
        self._weights, self._options = weights, options
        self._out = out
        self._batch_size, self._threads = batch_size, threads
        self._middle = self._dataset.num_frames // 2
        self._batches: Iterator[list[Any]] = iter(())
        pin_float32()
        torch.set_num_threads(threads)  # the order of sums depends on the number of threads

    @cached_property
    def _device(self) -> torch.device:
        return torch.device(default_device(), 0)

    @property
    def _device_id(self) -> int | None:
        return 0 if self._device.type == "cuda" else None

    @cached_property
    def _backbone(self) -> FrozenBackbone:
        backbone = read_frozen(self._weights, self._options)
        backbone.module.to(self._device)
        return backbone

    @cached_property
    def _pipeline(self) -> Pipeline:
        size = self._backbone.image_size
        return crop_graph(lambda: next(self._batches), size, self._batch_size, self._threads, self._device_id)

    def _encoded(self, row: int) -> NDArray[np.uint8]:
        return self._dataset.frame(row, int(self._middle[row]))

    def _crops(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        self._batches = (
            [self._encoded(int(row)) for row in rows[start : start + self._batch_size]]
            for start in range(0, len(rows), self._batch_size)
        )
        pipeline = self._pipeline
        while True:
            try:
                (crops,) = pipeline.run()
            except StopIteration:
                pipeline.reset()
                return
            except DALI_ERRORS as error:
                raise self._explain(rows, error) from error
            yield torch.utils.dlpack.from_dlpack(crops.as_tensor())

    def _explain(self, rows: NDArray[np.int64], error: Exception) -> UserError:
        """Name the image that DALI failed on."""
        frames = [BatchFrame(self._dataset, row, int(self._middle[row])) for row in rows.tolist()]
        return explain_failure(error, "while computing features", frames, dali_decoder(self._device_id))

    @torch.inference_mode()
    def features(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D) unit vectors of some rows of the dataset."""
        source = f"the features by {self._weights}"
        blocks = [np.empty((0, self._backbone.width), np.float16)]
        for crops in self._crops(rows):
            cls = self._backbone.module(crops).cls.float().cpu().numpy()
            blocks.append(unit_rows(cls, int(rows[sum(map(len, blocks))]), source))
        return np.concatenate(blocks)

    def run(self, item: int) -> int:
        """Write the features of shard number `item`; returns how many there are."""
        rows = np.flatnonzero(self._dataset.shard == item)
        features = self.features(rows)
        with self._out.atomic_write(part_name(item)) as path, path.open("wb") as stream:
            np.save(stream, features)
        return len(features)
