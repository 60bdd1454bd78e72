"""Approximate search for very large sets: FAISS's inverted lists over float16 vectors (IVF)."""

import math

import faiss
import numpy as np
from numpy.typing import NDArray

from indexing.search import MARGIN, Neighbours, Rules, merge, no_neighbours
from indexing.store import FeatureFile
from pipeline.settings import UserError

_TRAINING_ROWS_PER_LIST = 64
_SEED = 0


def list_count(rows: int) -> int:
    """Inverted lists for `rows` vectors: 4 sqrt(N), as FAISS's guide to choosing an index advises."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // _TRAINING_ROWS_PER_LIST))


def recall(approximate: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the (n, k) exact neighbours that are among the (n, k) approximate ones."""
    return float(
        np.mean([len(np.intersect1d(*pair)) for pair in zip(approximate, exact, strict=True)]) / exact.shape[1]
    )


def check_memory(memory_gb: float, rows: int, width: int) -> None:
    """Make sure that an index of all vectors, as float16 with their row numbers, fits into memory.

    Raises:
        UserError: it does not.
    """
    needed = 1.2 * rows * (2 * width + 8) / 1e9 + 0.5
    if needed > memory_gb:
        raise UserError(
            f"an approximate index of {rows} x {width} values needs search.memory_gb = {needed:.1f} or more"
        )


class ApproximateSearch:
    """An index over all rows, trained on evenly spaced ones; it depends on the features alone."""

    def __init__(self, base: FeatureFile, probes: int, block: int) -> None:
        lists = list_count(base.rows)
        quantizer = faiss.IndexFlatIP(base.width)
        self._index = faiss.IndexIVFScalarQuantizer(
            quantizer, base.width, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        self._quantizer = quantizer  # FAISS does not keep it alive
        self._index.cp.seed = _SEED
        self._index.nprobe = min(probes, lists)
        step = max(1, base.rows // (_TRAINING_ROWS_PER_LIST * lists))
        starts = range(0, base.rows, block)
        ends = [min(start + block, base.rows) for start in starts]
        sample = [base.read(start, end)[-start % step :: step] for start, end in zip(starts, ends, strict=True)]
        self._index.train(np.concatenate(sample))
        for start, end in zip(starts, ends, strict=True):
            self._index.add(base.read(start, end))

    def __call__(self, query_rows: NDArray[np.int64], queries: NDArray[np.float32], rules: Rules) -> Neighbours:
        """Neighbours of (n, D) queries; entries stay empty where the searched lists hold too few rows."""
        similarity, rows = self._index.search(queries, rules.k + 1 + MARGIN)
        wide = similarity.astype(np.float64)
        allowed = (rows >= 0) & rules.allow(query_rows, rows, wide)
        return merge(no_neighbours(len(queries), rules.k), rows, np.where(allowed, wide, -np.inf))
