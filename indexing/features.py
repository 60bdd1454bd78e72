"""Image features of a whole dataset: the CLS token of an exported backbone, one unit vector per sample.

Runs in a process of its own (`python -m indexing.features`), because torch and the FAISS GPU wheel bring different CUDA
versions; the search reads its file.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from pydantic import Field
from torch.nn import functional as F
from tqdm import tqdm

from indexing.table import FEATURES
from pipeline.dataset import ShardDataset
from pipeline.files import atomic_path, sha256_file
from pipeline.reader.graph import NORMALISATION
from pipeline.settings import Command, run_command
from training.weights import load_backbone

RESIZE_OVER_CROP = 256 / 224
"""Shorter side before the centre crop, in crop sizes (the usual ImageNet evaluation transform)."""


class FeaturesCommand(Command):
    """Write OUT/features.parquet: the L2-normalised CLS token of every image (of the middle frame of every clip)."""

    program: ClassVar[str] = "python -m indexing.features"

    shards: Path
    """Folder of a shard dataset."""
    weights: Path
    """Backbone written by `python -m training.export`."""
    out: Path
    """Folder for features.parquet."""
    batch_size: int = Field(64, ge=1)
    """Images per forward pass."""
    threads: int = Field(2, ge=1)
    """CPU threads of DALI."""


def centre_crops(
    dataset: ShardDataset, size: int, batch_size: int, threads: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Normalised (n, 3, size, size) crops of all samples in row order; n is `batch_size`, in the end less."""
    device_id = (device.index or 0) if device.type == "cuda" else None
    middle = dataset.num_frames // 2
    starts = iter(range(0, len(dataset), batch_size))

    def feed() -> list[np.ndarray]:
        start = next(starts)
        return [dataset.frame(row, int(middle[row])) for row in range(start, min(start + batch_size, len(dataset)))]

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=device_id)  # type: ignore[untyped-decorator]
    def graph() -> DataNode:
        encoded = fn.external_source(source=feed, batch=True, dtype=types.UINT8, ndim=1)
        image = fn.decoders.image(encoded, device="cpu" if device_id is None else "mixed", output_type=types.RGB)
        image = fn.resize(image, resize_shorter=round(RESIZE_OVER_CROP * size), interp_type=types.INTERP_CUBIC)
        return fn.crop_mirror_normalize(image, crop=(size, size), **NORMALISATION)

    pipeline = graph()
    pipeline.build()
    while True:
        try:
            (crops,) = pipeline.run()
        except StopIteration:
            return
        tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(crops.as_tensor())
        yield tensor


def main(command: FeaturesCommand) -> None:
    """Compute and write the features in row order."""
    dataset = ShardDataset(command.shards)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    backbone = load_backbone(command.weights).to(device).eval()
    width = backbone.settings.width
    metadata = {
        "dataset_hash": dataset.manifest.dataset_hash,
        "weights_hash": sha256_file(command.weights),
        "width": json.dumps(width),
    }
    schema = pa.schema([("key", pa.string()), ("feature", pa.list_(pa.float16(), width))], metadata)
    crops = centre_crops(dataset, backbone.settings.image_size, command.batch_size, command.threads, device)
    row = 0
    with (
        atomic_path(command.out / FEATURES) as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
        tqdm(total=len(dataset), unit="image", desc="features") as bar,
        torch.inference_mode(),
    ):
        for images in crops:
            features = F.normalize(backbone(images).cls.float(), dim=1).half().cpu().numpy()
            column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), width)
            keys = dataset.keys.slice(row, len(features)).combine_chunks()
            writer.write_table(pa.table([keys, column], schema))
            row += len(features)
            bar.update(len(features))


if __name__ == "__main__":
    run_command(FeaturesCommand, main)
