"""`python -m benchmarks.features`: images per second of the features of `make knn`, of one actor without Ray.

On the GPU if torch finds one, else on the CPU.
"""

import tempfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from benchmarks.made_shards import make_shards
from benchmarks.result import report
from indexing.extract import ShardFeatures
from pipeline.dataset import ShardDataset
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, THREAD_LIMIT, Command, run_command
from pipeline.storage import open_storage
from training.backbone.device import default_device
from training.backbone.vit import VitSettings, random_backbone
from training.backbone.weights import save_backbone

MADE_CLIPS = 64


class FeaturesBenchmark(Command):
    """Measure how many images a second become features: reading, decoding, center crop, backbone.

    Without --shards, synthetic clips of 340 x 256 pixels are used; the image of a clip is its middle frame.
    """

    program: ClassVar[str] = "python -m benchmarks.features"

    shards: Path | None = None
    """Folder of a shard dataset."""
    out: Path = Path("benchmarks/results/features.json")
    """Result file."""
    images: int = Field(256, ge=1, le=COUNT_LIMIT)
    """Images that are timed, repeated as needed, after as many for warm-up."""
    batch_size: int = Field(64, ge=1, le=BATCH_LIMIT)
    """Images per forward pass."""
    threads: int = Field(2, ge=1, le=THREAD_LIMIT)
    """CPU threads."""
    backbone: VitSettings = VitSettings(architecture="small")
    """Backbone, with random parameters."""


def measure(command: FeaturesBenchmark, shards: Path, folder: Path) -> tuple[int, float]:
    """Number of timed images and their seconds, after a warm-up; the weights are written to `folder`."""
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
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = command.shards or make_shards(folder / "made", MADE_CLIPS)
        images, seconds = measure(command, shards, folder)
    device = default_device()
    chosen = {"device": device, "width": command.backbone.width, "batch_size": command.batch_size}
    figures = {"images_per_second": images / seconds, "images": images, **chosen, "threads": command.threads}
    report(command.out, figures, [("images/s", f"{images / seconds:.1f} on {device}")], "Features")


if __name__ == "__main__":
    run_command(FeaturesBenchmark, main)
