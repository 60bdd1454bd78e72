"""Approximate search for very large sets: FAISS's inverted lists over float16 vectors (IVF)."""

import math

import faiss
import numpy as np
from numpy.typing import NDArray

from indexing.search import MARGIN, Neighbours, Rules, merge, nothing_found
from indexing.store import FeatureFile
from pipeline.settings import UserError

_TRAINING_ROWS_PER_LIST = 64
_SEED = 0


def list_count(rows: int) -> int:
    """Inverted lists for `rows` vectors: 4 sqrt(N), as FAISS's guide to choosing an index advises."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // _TRAINING_ROWS_PER_LIST))


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the (n, k) exact neighbours that are among those found."""
    return float(np.mean([len(np.intersect1d(*pair)) for pair in zip(found, exact, strict=True)]) / exact.shape[1])


def check_memory(memory_gb: float, rows: int, width: int) -> None:
    """All vectors stay in memory as float16 beside their numbers.

    Raises:
        UserError: they do not fit.
    """
    needed = 1.2 * rows * (2 * width + 8) / 1e9 + 0.5
    if needed > memory_gb:
        raise UserError(
            f"an approximate index of {rows} x {width} values needs search.memory_gb = {needed:.1f} or more"
        )


class ApproximateSearch:
    """An index over all rows, trained on evenly spread ones; the same features always give the same index."""

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
        """Neighbours of (n, D) queries; places stay empty where the lists that were searched hold too few."""
        similarity, rows = self._index.search(queries, rules.k + 1 + MARGIN)
        wide = similarity.astype(np.float64)
        allowed = (rows >= 0) & rules.allow(query_rows, rows, wide)
        return merge(nothing_found(len(queries), rules.k), rows, np.where(allowed, wide, -np.inf))
