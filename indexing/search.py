"""Exact nearest neighbours by inner product: which rows win, as pure NumPy around any float32 search.

Features are float16 unit vectors. Products of two float16 values are whole multiples of 2^-48 and their sums stay far
below 2^5, so an inner product in float64 is exact in whatever order it is summed. The float32 search of
`indexing.engines` only proposes candidates; they are scored exactly, and a query for which the rounding of float32
could have hidden a better row is compared with all rows. So the result is that of exact arithmetic with equal
similarities ordered by row, however the rows are cut into blocks and whichever machine computes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MARGIN = 10
"""Candidates beyond the k wanted and the query itself; more of them means fewer queries compared with all rows."""
_GATHER = 64
_SCAN_COLUMNS = 4096
_SCAN_QUERIES = 256

Nearest = Callable[[NDArray[np.float32], NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]]
"""(queries, base, count) -> the `count` largest inner products in float32, descending, and their positions in base."""


class Neighbours(NamedTuple):
    """k nearest rows of some queries, most similar first, equal similarities by row.

    A place that no allowed row fills has row -1 and similarity -inf.
    """

    rows: NDArray[np.int64]
    """(n, k) row numbers."""
    similarity: NDArray[np.float64]
    """(n, k) inner products."""


@dataclass(frozen=True)
class Rules:
    """Which rows may be neighbours: never the query itself, and what the options leave."""

    k: int
    max_similarity: float | None = None
    """Rows more similar than this are left out as duplicates."""
    groups: NDArray[np.int64] | None = None
    """(N,) group of each row; rows of the query's own group are left out."""

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


class Block(NamedTuple):
    """Consecutive rows of the features."""

    first: int
    features: NDArray[np.float32]
    """(m, D) float16 values, held as float32."""


def nothing_found(queries: int, k: int) -> Neighbours:
    """What is known before any row was seen."""
    return Neighbours(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf))


def error_bound(width: int) -> float:
    """Largest rounding error of a float32 inner product of two unit vectors of `width`, whatever the order of sums."""
    return 1.02 * width * 2.0**-24  # n u |x| |y|, Higham, Accuracy and Stability of Numerical Algorithms, section 3.1


def exact_similarity(
    queries: NDArray[np.float32], base: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(n, c) inner products of (n, D) `queries` with the rows of `base` at (n, c) `positions`, without any error."""
    result = np.empty(positions.shape)
    for start in range(0, len(queries), _GATHER):
        part = slice(start, start + _GATHER)
        gathered = base[positions[part]].astype(np.float64)
        result[part] = (gathered @ queries[part].astype(np.float64)[:, :, None])[..., 0]
    return result


def merge(found: Neighbours, rows: NDArray[np.int64], similarity: NDArray[np.float64]) -> Neighbours:
    """The best k of `found` and of (n, c) other rows; similarity -inf marks a row that must not be taken."""
    all_rows = np.concatenate([found.rows, rows], axis=1)
    all_similarity = np.concatenate([found.similarity, similarity], axis=1)
    order = np.lexsort((all_rows, -all_similarity), axis=1)[:, : found.rows.shape[1]]
    best = np.take_along_axis(all_similarity, order, 1)
    return Neighbours(np.where(best == -np.inf, -1, np.take_along_axis(all_rows, order, 1)), best)


def scan(
    query_rows: NDArray[np.int64], queries: NDArray[np.float32], base: Block, found: Neighbours, rules: Rules
) -> Neighbours:
    """Compare every query with every row of `base` in exact arithmetic; `found` holds rows before it."""
    parts = []
    for start in range(0, len(queries), _SCAN_QUERIES):
        part = slice(start, start + _SCAN_QUERIES)
        exact = queries[part].astype(np.float64)
        kept = Neighbours(found.rows[part].copy(), found.similarity[part].copy())
        for first in range(0, len(base.features), _SCAN_COLUMNS):
            chunk = base.features[first : first + _SCAN_COLUMNS]
            rows = np.arange(base.first + first, base.first + first + len(chunk))
            similarity = exact @ chunk.astype(np.float64).T
            enters = similarity > kept.similarity[:, -1:]  # an equal one comes later, so it stays out
            enters &= rules.allow(query_rows[part], np.broadcast_to(rows, similarity.shape), similarity)
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
    query_rows: NDArray[np.int64],
    queries: NDArray[np.float32],
    base: Block,
    found: Neighbours,
    rules: Rules,
    nearest: Nearest,
) -> Neighbours:
    """`found`, bettered by the rows of `base`, which all come after the rows seen so far.

    `query_rows` (n,) are the row numbers of (n, D) `queries`.
    """
    count = min(rules.k + 1 + MARGIN, len(base.features))
    proposed, positions = nearest(queries, base.features, count)
    similarity = exact_similarity(queries, base.features, positions)
    rows = positions + base.first
    allowed = rules.allow(query_rows, rows, similarity)
    merged = merge(found, rows, np.where(allowed, similarity, -np.inf))
    if count == len(base.features):
        return merged
    highest_hidden = proposed[:, -1].astype(np.float64) + error_bound(queries.shape[1])
    doubtful = np.flatnonzero(highest_hidden >= merged.similarity[:, -1])
    if len(doubtful):
        before = Neighbours(found.rows[doubtful], found.similarity[doubtful])
        better = scan(query_rows[doubtful], queries[doubtful], base, before, rules)
        merged.rows[doubtful], merged.similarity[doubtful] = better
    return merged
