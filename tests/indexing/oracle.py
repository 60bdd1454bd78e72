"""Neighbours by a full sort of all inner products in float64, which are exact for float16 values."""

import numpy as np

from indexing.search import Neighbours, Rules


def all_neighbours(features: np.ndarray, rules: Rules) -> Neighbours:
    """A stable sort of all pairs: equal similarities stay in row order."""
    similarity = features.astype(np.float64) @ features.astype(np.float64).T
    allowed = ~np.eye(len(features), dtype=bool)
    if rules.max_similarity is not None:
        allowed &= similarity <= rules.max_similarity
    if rules.groups is not None:
        allowed &= rules.groups[:, None] != rules.groups[None]
    similarity[~allowed] = -np.inf
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, : rules.k]
    best = np.take_along_axis(similarity, rows, 1)
    return Neighbours(np.where(best == -np.inf, -1, rows), best)
