"""`python -m indexing.knn`: features, exact search, neighbour table and report."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from indexing.search import Neighbours, search
from indexing.table import FEATURES, NEIGHBOURS, REPORT, write_neighbours
from pipeline.dataset import ShardDataset
from pipeline.files import sha256_file, write_bytes
from pipeline.settings import Command, UserError, run_command


class KnnCommand(Command):
    """Find the k nearest neighbours of every image of a shard dataset under the features of an exported backbone.

    Writes OUT/features.parquet, OUT/neighbours.parquet and OUT/report.json; pre-training on images reads the table
    with --data.neighbours OUT.
    """

    program: ClassVar[str] = "python -m indexing.knn"

    shards: Path
    """Folder of a shard dataset."""
    weights: Path
    """Backbone written by `python -m training.export`."""
    out: Path
    """Folder for the table."""
    k: int = Field(5, ge=1)
    """Neighbours of an image; the paper uses 5."""
    batch_size: int = Field(64, ge=1)
    """Images per forward pass."""


def compute_features(command: KnnCommand) -> None:
    """Run `indexing.features` in a process of its own: torch and FAISS never share one."""
    arguments = ("shards", "weights", "out", "batch_size")
    options = [f"--{name}={getattr(command, name)}" for name in arguments]
    status = subprocess.run([sys.executable, "-m", "indexing.features", *options]).returncode
    if status:  # it has said why
        raise SystemExit(status)


def read_features(folder: Path) -> NDArray[np.float32]:
    """The (N, D) float32 features in `folder`.

    Raises:
        UserError: they hold values that are not finite.
    """
    column = pq.read_table(folder / FEATURES, columns=["feature"])["feature"].combine_chunks()
    flat: NDArray[np.float16] = column.values.to_numpy(zero_copy_only=False)
    features = flat.reshape(len(column), -1).astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise UserError(
            f"{folder / FEATURES} has values that are not finite, first in row {broken[0]}: check the weights"
        )
    return features


def main(command: KnnCommand) -> None:
    """Make the table and print its summary."""
    dataset = ShardDataset(command.shards)
    if command.k >= len(dataset):
        raise UserError(f"k = {command.k} needs more than {command.k} images; {command.shards} holds {len(dataset)}")
    if not command.weights.is_file():
        raise UserError(f"no weights at {command.weights}: write them with `python -m training.export`")
    started = time.perf_counter()
    compute_features(command)
    features = read_features(command.out)
    searched = time.perf_counter()
    blocks = []
    with tqdm(total=len(features), unit="query", desc="search") as bar:
        for block in search(features, command.k):
            blocks.append(block)
            bar.update(len(block.rows))
    found = Neighbours(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
    ended = time.perf_counter()
    hashes = {"dataset_hash": dataset.manifest.dataset_hash, "weights_hash": sha256_file(command.weights)}
    keys = pa.chunked_array([dataset.keys.combine_chunks()])
    write_neighbours(command.out, keys, found.rows, found.similarity, {**hashes, "metric": "cosine"})
    same_class = float((dataset.label[found.rows] == dataset.label[:, None]).mean())
    chance = float(np.mean([(dataset.label == label).mean() for label in dataset.label]))
    popularity = np.bincount(found.rows.ravel(), minlength=len(dataset))
    report = {
        **hashes,
        "metric": "cosine",
        "k": command.k,
        "images": len(dataset),
        "width": features.shape[1],
        "feature_seconds": searched - started,
        "search_seconds": ended - searched,
        "same_class_rate": same_class,
        "same_class_rate_by_chance": chance,
        "similarity_quantiles": dict(
            zip(("0.05", "0.5", "0.95"), np.quantile(found.similarity, (0.05, 0.5, 0.95)).tolist(), strict=True)
        ),
        "most_popular_row_appears": int(popularity.max()),
    }
    write_bytes(command.out / REPORT, json.dumps(report, indent=2).encode() + b"\n")
    print(
        f"{len(dataset)} images, k = {command.k}: features {searched - started:.1f} s, "
        f"search {ended - searched:.1f} s; neighbours of the same class {same_class:.3f} (by chance {chance:.3f}); "
        f"{command.out / NEIGHBOURS}"
    )


if __name__ == "__main__":
    run_command(KnnCommand, main)
