"""Exact nearest neighbours by inner product, as pure NumPy around any float32 search.

Features are float16 unit vectors. Products of two float16 values are whole multiples of 2^-48 and their sums stay far
below 2^5, so an inner product in float64 is exact in any order of summation. The float32 search of
`indexing.engines` only proposes candidates; they are scored exactly, and a query for which float32 rounding could have
hidden a better row is compared with all rows. The result is therefore that of exact arithmetic, with ties ordered by
row, independent of block sizes and of the machine.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MARGIN = 10
"""Candidates beyond k and the query itself; the more, the fewer queries are compared with all rows."""
MOST_CANDIDATES = 2048
"""Largest number of candidates, which is that of FAISS on a GPU."""
_GATHERED = 1024
"""Candidates whose features are gathered at once."""
_SCAN_COLUMNS = 4096
_SCAN_QUERIES = 256


class Neighbours(NamedTuple):
    """k nearest rows of some queries, most similar first, ties by row.

    Where fewer than k rows are allowed, the remaining entries have row -1 and similarity -inf.
    """

    rows: NDArray[np.int64]
    """(n, k) row numbers."""
    similarity: NDArray[np.float64]
    """(n, k) inner products."""


@dataclass(frozen=True)
class Rules:
    """Which rows may be neighbours; the query itself never is."""

    k: int
    max_similarity: float | None = None
    """Rows more similar than this are excluded as duplicates."""
    groups: NDArray[np.int64] | None = None
    """(N,) group of each row; rows of the query's own group are excluded."""

    def allow(
        self, queries: NDArray[np.int64], rows: NDArray[np.int64], similarity: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which of (n, c) candidate `rows` with their `similarity` may be neighbours of (n,) `queries`."""
        allowed: NDArray[np.bool_] = rows != queries[:, None]
        if self.max_similarity is not None:
            allowed &= similarity <= self.max_similarity
        if self.groups is not None:
            allowed &= self.groups[rows] != self.groups[queries][:, None]
        return allowed


class Queries(NamedTuple):
    """Rows whose neighbours are searched."""

    rows: NDArray[np.int64]
    """(n,) row numbers."""
    features: NDArray[np.float32]
    """(n, D) float16 values, held as float32."""


class Block(NamedTuple):
    """Consecutive rows of the features. In one search, blocks with the same `first` hold the same rows."""

    first: int
    features: NDArray[np.float32]
    """(m, D) float16 values, held as float32."""


Nearest = Callable[[NDArray[np.float32], Block, int], tuple[NDArray[np.float32], NDArray[np.int64]]]
"""(queries, base, count) -> the `count` largest inner products in float32, descending, and their positions in base."""


def no_neighbours(queries: int, k: int) -> Neighbours:
    """The neighbours among no rows: all entries are empty."""
    return Neighbours(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf))


def error_bound(width: int) -> float:
    """Largest rounding error of a float32 inner product of two unit vectors of `width`, whatever the order of sums."""
    return 1.02 * width * 2.0**-24  # n u |x| |y|, Higham, Accuracy and Stability of Numerical Algorithms, section 3.1


def exact_similarity(
    queries: NDArray[np.float32], base: NDArray[np.float32], positions: NDArray[np.int64], threads: int = 1
) -> NDArray[np.float64]:
    """(n, c) inner products of (n, D) `queries` with the rows of `base` at (n, c) `positions`, without rounding."""
    result = np.empty(positions.shape)
    step = max(1, _GATHERED // positions.shape[1])

    def score(start: int) -> None:
        part = slice(start, start + step)
        gathered = base[positions[part]].astype(np.float64)
        result[part] = (gathered @ queries[part].astype(np.float64)[:, :, None])[..., 0]

    with ThreadPoolExecutor(threads) as pool:  # NumPy gathers and multiplies without Python's lock
        list(pool.map(score, range(0, len(queries), step)))
    return result


def merge(best: Neighbours, rows: NDArray[np.int64], similarity: NDArray[np.float64]) -> Neighbours:
    """The best k of `best` and of (n, c) other rows; similarity -inf excludes a row."""
    all_rows = np.concatenate([best.rows, rows], axis=1)
    all_similarity = np.concatenate([best.similarity, similarity], axis=1)
    order = np.lexsort((all_rows, -all_similarity), axis=1)[:, : best.rows.shape[1]]
    top = np.take_along_axis(all_similarity, order, 1)
    return Neighbours(np.where(top == -np.inf, -1, np.take_along_axis(all_rows, order, 1)), top)


def scan(queries: Queries, base: Block, best: Neighbours, rules: Rules) -> Neighbours:
    """Compare every query with every row of `base` in exact arithmetic; `best` holds earlier rows."""
    parts = []
    for start in range(0, len(queries.rows), _SCAN_QUERIES):
        part = slice(start, start + _SCAN_QUERIES)
        exact = queries.features[part].astype(np.float64)
        kept = Neighbours(best.rows[part].copy(), best.similarity[part].copy())
        for first in range(0, len(base.features), _SCAN_COLUMNS):
            chunk = base.features[first : first + _SCAN_COLUMNS]
            rows = np.arange(base.first + first, base.first + first + len(chunk))
            similarity = exact @ chunk.astype(np.float64).T
            enters = similarity > kept.similarity[:, -1:]  # an equal one comes later, so it stays out
            enters &= rules.allow(queries.rows[part], np.broadcast_to(rows, similarity.shape), similarity)
            which = np.flatnonzero(enters.any(axis=1))
            masked = np.where(enters[which], similarity[which], -np.inf)
            order = np.argsort(-masked, axis=1, kind="stable")[:, : rules.k]
            better = merge(
                Neighbours(kept.rows[which], kept.similarity[which]), rows[order], np.take_along_axis(masked, order, 1)
            )
            kept.rows[which], kept.similarity[which] = better
        parts.append(kept)
    return Neighbours(np.concatenate([p.rows for p in parts]), np.concatenate([p.similarity for p in parts]))


def search_block(
    queries: Queries, base: Block, best: Neighbours, rules: Rules, nearest: Nearest, threads: int = 1
) -> Neighbours:
    """The neighbours `best` among earlier rows, updated with the rows of `base`; candidates are scored by `threads`."""
    count = min(rules.k + 1 + MARGIN, MOST_CANDIDATES, len(base.features))
    proposed, positions = nearest(queries.features, base, count)
    similarity = exact_similarity(queries.features, base.features, positions, threads)
    rows = positions + base.first
    allowed = rules.allow(queries.rows, rows, similarity)
    merged = merge(best, rows, np.where(allowed, similarity, -np.inf))
    if count == len(base.features):
        return merged
    highest_hidden = proposed[:, -1].astype(np.float64) + error_bound(queries.features.shape[1])
    doubtful = np.flatnonzero(highest_hidden >= merged.similarity[:, -1])
    if len(doubtful):
        before = Neighbours(best.rows[doubtful], best.similarity[doubtful])
        better = scan(Queries(queries.rows[doubtful], queries.features[doubtful]), base, before, rules)
        merged.rows[doubtful], merged.similarity[doubtful] = better
    return merged
