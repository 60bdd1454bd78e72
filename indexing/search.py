"""Exact nearest neighbours by inner product (FAISS), the query itself left out by its row number."""

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray


class Neighbours(NamedTuple):
    """k nearest rows of some queries, most similar first, equal similarities by row."""

    rows: NDArray[np.int32]
    """(n, k) row numbers."""
    similarity: NDArray[np.float32]
    """(n, k) inner products."""


def drop_query(rows: NDArray[np.int64], similarity: NDArray[np.float32], queries: NDArray[np.int64]) -> Neighbours:
    """Remove each query from its own (n, k + 1) candidates by row number, never by place: a duplicate may come first.

    Where the query is not among its candidates (more than k exact duplicates), the last candidate goes.
    """
    order = np.lexsort((rows, -similarity), axis=1)
    rows, similarity = np.take_along_axis(rows, order, 1), np.take_along_axis(similarity, order, 1)
    is_query = rows == queries[:, None]
    is_query[~is_query.any(axis=1), -1] = True
    shape = (len(rows), rows.shape[1] - 1)
    return Neighbours(rows[~is_query].reshape(shape).astype(np.int32), similarity[~is_query].reshape(shape))


def search(features: NDArray[np.float32], k: int, block: int = 4096) -> Iterator[Neighbours]:
    """Neighbours of all (N, D) unit vectors among themselves, `block` queries at a time; needs k < N."""
    for start in range(0, len(features), block):
        queries = np.arange(start, min(start + block, len(features)))
        similarity, rows = faiss.knn(features[queries], features, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
        yield drop_query(rows, similarity, queries)
