"""Counts over a whole dataset, and a choice of its samples, from the tables alone and in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset import INDEX, REJECTS, Manifest
from pipeline.storage import Storage

Counts = NDArray[np.int64]
DURATION_UNIT_S = 0.1
SIZE_UNIT_BYTES = 1000
EXAMPLES = 3
"""Rejects of each reason that are shown."""
_EXAMPLE_CHARACTERS = 300


class Tally:
    """How often each whole number from 0 on occurs."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(1, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count (n,) whole numbers."""
        new = np.bincount(values, minlength=len(self.counts))
        new[: len(self.counts)] += self.counts
        self.counts = new


@dataclass
class RejectedInputs:
    """Inputs that were rejected for one reason."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Source and detail of the first ones."""


@dataclass
class Survey:
    """What the whole dataset is like. A clip of layout `triplets` counts once."""

    classes: Tally = field(default_factory=Tally)
    """Clips or images by label + 1."""
    durations: Tally = field(default_factory=Tally)
    """Clips by `DURATION_UNIT_S`."""
    widths: Tally = field(default_factory=Tally)
    heights: Tally = field(default_factory=Tally)
    frame_bytes: Tally = field(default_factory=Tally)
    """Frames by `SIZE_UNIT_BYTES`."""
    rejects: dict[str, RejectedInputs] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """An input that is shown."""

    row: int
    """Number of its first row in the index."""
    rows: list[dict[str, Any]]
    """Its index rows: one, or one for each triplet."""


def rows_of_a_clip(manifest: Manifest) -> int:
    """Index rows that belong to one input."""
    return int(manifest.settings["triplets"]["per_clip"]) if manifest.layout == "triplets" else 1


def allot(counts: Counts, samples: int, seed: int) -> Counts:
    """How many of `samples` each class gives: all classes in turn, in an order drawn from the seed."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
    quota = np.zeros_like(counts)
    while len(order) and (left := samples - int(quota.sum())) > 0:
        quota[order[:left]] += 1
        order = order[quota[order] < counts[order]]
    return quota


def _first_rows(file: pq.ParquetFile, columns: list[str], stride: int) -> Iterator[pa.RecordBatch]:
    """Batches of every `stride`-th row."""
    start = 0
    for batch in file.iter_batches(columns=columns):
        yield batch.take(pa.array(np.arange(-start % stride, batch.num_rows, stride)))
        start += batch.num_rows


def survey_dataset(storage: Storage, manifest: Manifest) -> Survey:
    """Count over the index and the rejects.

    Raises:
        OSError, pyarrow.ArrowException: they cannot be read.
    """
    survey = Survey()
    columns = ["label", "duration_s", "width", "height", "frame_size"]
    with storage.parquet(INDEX) as file:
        for batch in _first_rows(file, columns, rows_of_a_clip(manifest)):
            survey.classes.add(batch["label"].to_numpy() + 1)
            survey.durations.add(np.rint(batch["duration_s"].to_numpy() / DURATION_UNIT_S).astype(np.int64))
            survey.widths.add(batch["width"].to_numpy())
            survey.heights.add(batch["height"].to_numpy())
            survey.frame_bytes.add(batch["frame_size"].flatten().to_numpy() // SIZE_UNIT_BYTES)
    with storage.parquet(REJECTS) as file:
        for batch in file.iter_batches():
            for source, reason, detail in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                rejected = survey.rejects.setdefault(reason, RejectedInputs())
                rejected.count += 1
                if len(rejected.examples) < EXAMPLES:
                    rejected.examples.append((source[:_EXAMPLE_CHARACTERS], detail[:_EXAMPLE_CHARACTERS]))
    return survey


def choose(storage: Storage, manifest: Manifest, survey: Survey, samples: int, seed: int) -> list[Chosen]:
    """Draw `samples` inputs from the seed, spread over the classes, and read their index rows; in index order."""
    quota = allot(survey.classes.counts, samples, seed)
    random = np.random.default_rng((seed, 1))
    stride = rows_of_a_clip(manifest)
    kept: dict[int, list[tuple[float, int]]] = {int(label): [] for label in np.flatnonzero(quota)}
    start = 0
    with storage.parquet(INDEX) as file:
        for batch in _first_rows(file, ["label"], stride):
            labels, rank = batch["label"].to_numpy() + 1, random.random(batch.num_rows)
            for label, best in kept.items():
                own = np.flatnonzero(labels == label)
                first = own[np.argsort(rank[own], kind="stable")[: quota[label]]]
                candidates = best + [(float(rank[place]), start + int(place)) for place in first]
                kept[label] = sorted(candidates)[: quota[label]]
            start += batch.num_rows
        numbers = sorted(number for best in kept.values() for _, number in best)
        return [Chosen(number * stride, _rows(file, number * stride, stride)) for number in numbers]


def _rows(file: pq.ParquetFile, first: int, count: int) -> list[dict[str, Any]]:
    """Index rows `first`, ..., `first` + `count` - 1, which lie in one row group."""
    group = 0
    while first >= (size := file.metadata.row_group(group).num_rows):
        first -= size
        group += 1
    rows: list[dict[str, Any]] = file.read_row_group(group).slice(first, count).to_pylist()
    return rows
