"""`python -m benchmarks.features`: images per second of `make knn`'s features, without Ray: one actor's work.

On the GPU if torch finds one, else on the CPU.
"""

import tempfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from benchmarks.made_shards import make_shards
from benchmarks.result import print_table, write_result
from indexing.extract import ShardFeatures
from pipeline.dataset import ShardDataset
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, THREAD_LIMIT, Command, run_command
from pipeline.storage import open_storage
from training.backbone.vit import VitSettings, random_backbone
from training.backbone.weights import save_backbone

MADE_CLIPS = 64


class FeaturesBenchmark(Command):
    """Measure how many images a second become features: reading, decoding, center crop, backbone.

    Without --shards, clips of 340 x 256 pixels are made by code; of a clip the middle frame counts.
    """

    program: ClassVar[str] = "python -m benchmarks.features"

    shards: Path | None = None
    """Folder of a shard dataset."""
    out: Path = Path("benchmarks/results/features.json")
    """Result file."""
    images: int = Field(256, ge=1, le=COUNT_LIMIT)
    """Images that are timed; those of the dataset, over and over, after as many that are not."""
    batch_size: int = Field(64, ge=1, le=BATCH_LIMIT)
    """Images per forward pass."""
    threads: int = Field(2, ge=1, le=THREAD_LIMIT)
    """CPU threads."""
    backbone: VitSettings = VitSettings(architecture="small")
    """Random parameters are drawn for it; the time does not depend on them."""


def measure(command: FeaturesBenchmark, shards: Path, folder: Path) -> tuple[int, float]:
    """Images that were timed after a warm-up, and their seconds; `folder` takes the weights."""
    weights = folder / "weights.safetensors"
    save_backbone(weights, random_backbone(command.backbone, 0), card={})
    actor = ShardFeatures(shards, weights, open_storage(str(folder)), command.batch_size, command.threads)
    rows = np.resize(np.arange(len(ShardDataset(shards))), command.images)
    actor.features(rows)
    started = time.perf_counter()
    images = len(actor.features(rows))
    return images, time.perf_counter() - started


def main(command: FeaturesBenchmark) -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shards = command.shards or make_shards(folder / "made", MADE_CLIPS)
        images, seconds = measure(command, shards, folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = {"device": device, "width": command.backbone.width, "batch_size": command.batch_size}
    write_result(
        command.out, {"images_per_second": images / seconds, "images": images, **chosen, "threads": command.threads}
    )
    rows = [("images/s", f"{images / seconds:.1f} on {device}"), ("written to", str(command.out))]
    print_table(rows, "Features")


if __name__ == "__main__":
    run_command(FeaturesBenchmark, main)
