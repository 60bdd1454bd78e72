"""Two labeled datasets, to classify the samples of one by those of the other."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dataset import INDEX, ShardDataset
from pipeline.reading import reading
from pipeline.settings import UserError
from pipeline.storage import open_storage

_NAMED = 5


class Labeled(NamedTuple):
    """A dataset whose samples all have a class."""

    dataset: ShardDataset
    label: NDArray[np.int64]
    """(N,) class of each sample, a number of the training set."""


class Pair(NamedTuple):
    """A training set, and a test set of other samples of the same classes."""

    train: Labeled
    test: Labeled
    classes: list[str]
    """Names of the training set's classes, by number."""


def open_pair(train: Path, test: Path, options: tuple[str, str] = ("--shards", "--shards_test")) -> Pair:
    """Open two datasets; classes are matched by name.

    Raises:
        UserError: a sample has no class, the test set has a class that the training set has not, or the two share a
            sample; names the `options` that gave the folders.
    """
    datasets = [ShardDataset(folder) for folder in (train, test)]
    for dataset, option in zip(datasets, options, strict=True):
        missing = int((dataset.label < 0).sum())
        if missing or not len(dataset):
            what = f"{missing} of its {len(dataset)} samples have no class" if missing else "it has no samples"
            raise UserError(f"{option} {dataset.folder} cannot be classified: {what}")
    classes, test_classes = (dataset.manifest.classes for dataset in datasets)
    known = {name: number for number, name in enumerate(classes)}
    taught = set(np.unique(datasets[0].label).tolist())
    asked = np.unique(datasets[1].label).tolist()
    if unknown := [test_classes[label] for label in asked if known.get(test_classes[label]) not in taught]:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise UserError(
            f"{options[1]} {test} has classes that no sample of {options[0]} {train} has: "
            f"{', '.join(unknown[:_NAMED])}{more}; classes are matched by name"
        )
    _refuse_shared(datasets[0], datasets[1], options)
    numbers = np.array([known.get(name, -1) for name in test_classes])
    return Pair(
        Labeled(datasets[0], datasets[0].label.astype(np.int64)),
        Labeled(datasets[1], numbers[datasets[1].label]),
        classes,
    )


def _refuse_shared(train: ShardDataset, test: ShardDataset, options: tuple[str, str]) -> None:
    """Raise UserError if a sample of one is also in the other: one with the same key, or from the same input."""
    for column, what in (("key", "the key"), ("source", "the input")):
        values, others = _column(train, column), _column(test, column)
        shared = others.filter(pc.is_in(others, value_set=values))
        if len(shared):
            raise UserError(
                f"{options[0]} {train.folder} and {options[1]} {test.folder} share {len(shared)} samples (the first "
                f"has {what} {shared[0].as_py()}): a score on samples of the training set means nothing; leave them "
                "out of one of the two"
            )


def _column(dataset: ShardDataset, name: str) -> pa.ChunkedArray:
    folder = open_storage(dataset.folder)
    with reading(f"{dataset.folder}/{INDEX}", "a Parquet file", dataset.repair_hint), folder.parquet(INDEX) as file:
        return file.read(columns=[name])[name]
