"""Features of a whole dataset: the CLS token of a backbone, one unit vector per sample.

Runs as a separate process (`python -m indexing.features`), because torch and the FAISS GPU wheel bring different CUDA
versions; the search reads its file.
"""

import functools
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

import indexing
import pipeline
import training
from indexing.extract import PARTS, ShardFeatures, part_name
from indexing.resume import begin, cannot_write
from indexing.store import FEATURES, features_identity, read_metadata, write_features
from pipeline.dataset import ShardDataset
from pipeline.ray.actors import run_on_actors
from pipeline.ray.session import ray_session
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, THREAD_LIMIT, WORKER_LIMIT, Command, run_command
from pipeline.storage import Folder, Storage, Uri, open_storage
from training.backbone.families import BackboneOptions
from training.backbone.frozen import read_frozen
from training.backbone.source import source_sha256

LOCK = f"{PARTS}.lock"


class FeaturesCommand(Command):
    """Write OUT/features.parquet: the L2-normalized CLS token of every image or clip.

    One Ray actor per GPU, or per `threads` cores where there is none; with RAY_ADDRESS set, on that cluster, whose
    nodes see the same folders. Interrupt it at any time: the same command continues with the missing shards.
    """

    program: ClassVar[str] = "python -m indexing.features"

    shards: Folder
    """Folder of a shard dataset, on a file system."""
    weights: Path
    """Backbone: an export, a file (.pth, .safetensors) of another project, or a folder of transformers."""
    backbone: BackboneOptions = BackboneOptions()
    """What the weights do not say."""
    out: Uri
    """Folder for features.parquet, or its URI."""
    frames: int = Field(1, ge=1, le=COUNT_LIMIT)
    """Frames of a clip, evenly spaced, whose CLS tokens are averaged; 1: its middle frame."""
    batch_size: int = Field(64, ge=1, le=BATCH_LIMIT)
    """Images per forward pass."""
    threads: int = Field(1, ge=1, le=THREAD_LIMIT)
    """CPU threads of one actor. The same batch size and threads give the same bytes on one kind of CPU."""
    workers: int | None = Field(None, ge=0, le=WORKER_LIMIT)
    """Actors at once; default: one per GPU, else cores / threads. Each takes about 1 GB of memory. 0: this process
    alone, without Ray."""


def main(command: FeaturesCommand) -> None:
    """Compute the features of missing shards, then write all in row order."""
    started = time.perf_counter()
    dataset, out = ShardDataset(command.shards), open_storage(command.out)
    read_metadata(out)  # raises if the file is someone else's
    width = read_frozen(command.weights, command.backbone).width
    weights_hash = source_sha256(command.weights, command.backbone)
    hashes = features_identity(dataset.manifest.dataset_hash, weights_hash, command.frames)
    with out.exclusive_lock(LOCK):
        begin(out, PARTS, {**hashes, "batch_size": command.batch_size, "threads": command.threads})
        images = _compute(command, dataset, out)
        seconds = time.perf_counter() - started
        try:
            parts = [part_name(shard) for shard in np.unique(dataset.shard).tolist()]
            write_features(out, dataset.keys, map(functools.partial(_read_part, out), parts), width, hashes)
            out.remove(PARTS)
        except OSError as error:
            raise cannot_write(out, error) from error
    print(f"features of {images} images in {seconds:.1f} s ({images / seconds:.1f} images/s); {out}/{FEATURES}")


def _compute(command: FeaturesCommand, dataset: ShardDataset, out: Storage) -> int:
    """Write the features of the shards that have none yet; returns their number of images."""
    sizes = np.bincount(dataset.shard, minlength=len(dataset.manifest.shards))
    pending = [shard for shard in np.flatnonzero(sizes).tolist() if out.size(part_name(shard)) is None]
    left = int(sizes[pending].sum())
    make_worker = functools.partial(
        ShardFeatures,
        command.shards.absolute(),
        command.weights.absolute(),
        out,
        batch_size=command.batch_size,
        threads=command.threads,
        options=command.backbone,
        frames=command.frames,
    )
    cores = None if command.workers is None else command.workers * command.threads
    with tqdm(total=len(dataset), initial=len(dataset) - left, unit="image", desc="features", smoothing=0) as bar:
        if pending:
            with ray_session(cores, (pipeline, indexing, training)):
                for done in run_on_actors(
                    make_worker, pending, str(out), cpus=command.threads, gpus=True, workers=command.workers
                ):
                    bar.update(done.result)
    return left


def _read_part(out: Storage, name: str) -> NDArray[np.float16]:
    with out.open(name) as stream:
        features: NDArray[np.float16] = np.load(stream)
    return features


if __name__ == "__main__":
    run_command(FeaturesCommand, main)
