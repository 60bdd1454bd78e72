"""Counts over a whole dataset and a choice of its samples, from its tables alone."""

import itertools
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
"""Number of rejects shown for each reason."""
_EXAMPLE_CHARACTERS = 300


class Tally:
    """Counts of the integers 0, 1, ..."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(1, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count integers (n,)."""
        new = np.bincount(values, minlength=len(self.counts))
        new[: len(self.counts)] += self.counts
        self.counts = new


@dataclass
class RejectedInputs:
    """Inputs that were rejected for one reason."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Source and detail of the first few."""


@dataclass
class Survey:
    """Distributions over a whole dataset; a clip of layout `triplets` counts once."""

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
    """A clip or image that is shown."""

    row: int
    """Its first row in the index."""
    rows: list[dict[str, Any]]
    """Its index rows: a single one, or one for each triplet."""


def allot(counts: Counts, samples: int, seed: int) -> Counts:
    """Number of samples to show of each class (n,), `samples` in all: one of each class in turn, in random order."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
    quota = np.zeros_like(counts)
    while len(order) and (left := samples - int(quota.sum())) > 0:
        quota[order[:left]] += 1
        order = order[quota[order] < counts[order]]
    return quota


def _rows_per_input(manifest: Manifest) -> int:
    return int(manifest.settings["triplets"]["per_clip"]) if manifest.layout == "triplets" else 1


def survey_dataset(storage: Storage, manifest: Manifest) -> Survey:
    """Count over the index and the rejects, in bounded memory.

    Raises:
        OSError, pyarrow.ArrowException: they cannot be read.
    """
    survey, start, stride = Survey(), 0, _rows_per_input(manifest)
    with storage.parquet(INDEX) as file:
        for rows in file.iter_batches(columns=["label", "duration_s", "width", "height", "frame_size"]):
            batch = rows.take(pa.array(np.arange(-start % stride, rows.num_rows, stride)))
            start += rows.num_rows
            survey.classes.add(batch["label"].to_numpy() + 1)
            survey.durations.add(np.rint(batch["duration_s"].to_numpy() / DURATION_UNIT_S).astype(np.int64))
            survey.widths.add(batch["width"].to_numpy())
            survey.heights.add(batch["height"].to_numpy())
            survey.frame_bytes.add(batch["frame_size"].flatten().to_numpy() // SIZE_UNIT_BYTES)
    with storage.parquet(REJECTS) as file:
        for batch in file.iter_batches(columns=["source", "reason", "detail"]):
            for source, reason, detail in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                rejected = survey.rejects.setdefault(reason, RejectedInputs())
                rejected.count += 1
                if len(rejected.examples) < EXAMPLES:
                    rejected.examples.append((source[:_EXAMPLE_CHARACTERS], detail[:_EXAMPLE_CHARACTERS]))
    return survey


def choose(storage: Storage, manifest: Manifest, survey: Survey, samples: int, seed: int) -> list[Chosen]:
    """Draw `samples` inputs from the seed, spread over the classes, and read their index rows; in index order."""
    quota, stride = allot(survey.classes.counts, samples, seed), _rows_per_input(manifest)
    with storage.parquet(INDEX) as file:
        labels = file.read(["label"])["label"].to_numpy()[::stride] + 1
        order = np.argsort(np.random.default_rng((seed, 1)).random(len(labels)), kind="stable")
        chosen = [order[labels[order] == label][: quota[label]].tolist() for label in np.flatnonzero(quota)]
        return [Chosen(stride * n, _rows(file, stride * n, stride)) for n in sorted(itertools.chain(*chosen))]


def _rows(file: pq.ParquetFile, first: int, count: int) -> list[dict[str, Any]]:
    """Index rows `first` to `first + count - 1`, which are in one row group."""
    group = 0
    while first >= (size := file.metadata.row_group(group).num_rows):
        first -= size
        group += 1
    rows: list[dict[str, Any]] = file.read_row_group(group).slice(first, count).to_pylist()
    return rows
