"""Nearest neighbours of the samples of one dataset among those of another: the search of a k-NN classifier.

Runs as a separate process (`python -m indexing.cross`), because torch and the FAISS GPU wheel bring different CUDA
versions. Its result is that of exact arithmetic, with ties ordered by row, like that of `indexing.knn`.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from indexing import job
from indexing.job import SearchSettings
from indexing.resume import cannot_write
from indexing.search import Rules
from indexing.store import FEATURES, read_metadata
from pipeline.settings import Command, UserError, run_command
from pipeline.storage import Storage, open_storage

NEAREST = "nearest.npz"
LOCK = ".cross.lock"


class CrossCommand(Command):
    """Find the k nearest rows of BASE/features.parquet for every row of QUERIES/features.parquet, by cosine similarity.

    Writes OUT/nearest.npz: `rows` (N, k) and `similarity` (N, k), most similar first. Interrupt it at any time: the
    same command continues.
    """

    program: ClassVar[str] = "python -m indexing.cross"

    base: Path
    """Folder with the features among which neighbours are searched."""
    queries: Path
    """Folder with the features whose neighbours are searched."""
    out: Path
    """Folder for nearest.npz."""
    k: int = Field(20, ge=1, le=2000)
    """Neighbours of a row."""
    search: SearchSettings = SearchSettings()
    """How neighbours are searched; always exactly."""

    @field_validator("search")
    @classmethod
    def _exact(cls, search: SearchSettings) -> SearchSettings:
        if search.approximate:
            raise ValueError("search.approximate is for tables of neighbours: this search is exact")
        return search


def _metadata(storage: Storage) -> dict[str, str]:
    metadata = read_metadata(storage)
    if metadata is None:
        raise UserError(f"{storage} has no {FEATURES}: write it with `python -m indexing.features`")
    return metadata


def main(command: CrossCommand) -> None:
    """Search and write the neighbours."""
    base, queries, out = (open_storage(str(folder)) for folder in (command.base, command.queries, command.out))
    made_from = [_metadata(storage) for storage in (base, queries)]
    rows, widths = int(made_from[0]["rows"]), {metadata["width"] for metadata in made_from}
    if len(widths) > 1:
        raise UserError(f"the features in {base} and {queries} have different widths: {' and '.join(sorted(widths))}")
    if command.k > rows:
        raise UserError(f"k = {command.k} needs at least {command.k} samples; {base} has {rows}")
    identity = {"base": made_from[0], "queries": made_from[1], "k": command.k}
    with out.exclusive_lock(LOCK):
        result = job.run_search(out, command.search, Rules(command.k), identity, (base, queries))
        try:
            with out.atomic_write(NEAREST) as path, path.open("wb") as stream:
                np.savez(stream, rows=result.rows, similarity=result.similarity)
            job.close(out)
        except OSError as error:
            raise cannot_write(out, error) from error


if __name__ == "__main__":
    run_command(CrossCommand, main)
