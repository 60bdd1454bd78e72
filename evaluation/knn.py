"""`python -m evaluation knn`: k-NN classification of samples by frozen features."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, field_validator

from evaluation.classes import Pair
from evaluation.command import PROGRAM
from evaluation.knn_scores import accuracies, columns
from evaluation.probe import Outcome, Probe, ProbeCommand, run_probe
from pipeline.files import remove
from pipeline.settings import FACTOR_LIMIT

NEAREST = "nearest.npz"
_SEARCH = ".knn"


class KnnProbeCommand(ProbeCommand):
    """Score frozen features by k-NN classification: a sample gets the class of its most similar training samples.

    Each of the k neighbours votes with weight exp(cosine similarity / temperature), as in DINO and DINOv2. Writes
    OUT/knn.json, or OUT/knn-NAME.json for each of several weights.
    """

    program: ClassVar[str] = f"{PROGRAM} knn"

    k: tuple[Annotated[int, Field(ge=1, le=2000)], ...] = (10, 20)
    """Numbers of neighbours, each of which gives a score; the first is the main one."""
    temperature: float = Field(0.07, gt=0, le=FACTOR_LIMIT)
    """Temperature of the votes."""

    @field_validator("k")
    @classmethod
    def _at_least_one_k(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if not k or len(set(k)) < len(k):
            raise ValueError("must be one or several different numbers, e.g. 10,20")
        return k


def run_knn(command: KnnProbeCommand) -> int:
    """Score all weights; raises as `run_probe`."""

    def score(pair: Pair, train: Path, test: Path) -> Outcome:
        folder = command.out / _SEARCH / f"{train.name}-{test.name}-{max(command.k)}"
        _search(train, test, folder, max(command.k))
        with np.load(folder / NEAREST) as nearest:
            rows, similarity = nearest["rows"], nearest["similarity"]
        remove(command.out / _SEARCH)
        labels = pair.train.label, pair.test.label
        return Outcome(accuracies(rows, similarity, labels, command.k, command.temperature), {})

    probe = Probe(
        "knn", "k-NN classification", columns(command.k), ("k", "temperature", "frames"), score, max(command.k)
    )
    return run_probe(probe, command)


def _search(base: Path, queries: Path, out: Path, k: int) -> None:
    """Find the neighbours in a process of its own: torch and FAISS never share one."""
    options = [f"--base={base}", f"--queries={queries}", f"--out={out}", f"--k={k}"]
    status = subprocess.run([sys.executable, "-m", "indexing.cross", *options]).returncode
    if status:  # it has printed the reason
        raise SystemExit(status)
