"""Queries and position accuracy of TAP-Vid, points as soft labels, and points from soft labels.

Doersch et al., "TAP-Vid: A Benchmark for Tracking Any Point in a Video", NeurIPS Datasets and Benchmarks 2022; the
definitions are those of its released evaluation (google-deepmind/tapnet, tapnet/tapvid/evaluation_datasets.py).
Positions are in pixels from the left and upper border, so the center of the first pixel is at 0.5.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.jhmdb_scores import Points, labels_to_joints

QueryMode = Literal["first", "strided"]
THRESHOLDS = (1, 2, 4, 8, 16)
"""Distances in pixels of 256 x 256 frames below which a position is correct."""
QUERY_STRIDE = 5
"""Frames between two queries of a track in the mode `strided`."""


class Queries(NamedTuple):
    """Points to track: Q pairs of a track and the frame in which its position is given."""

    track: NDArray[np.int64]
    """(Q,)"""
    frame: NDArray[np.int64]
    """(Q,)"""


def sample_queries(visible: NDArray[np.bool_], mode: QueryMode) -> Queries:
    """The queries on tracks that are `visible` (N, T).

    first: one for each track that is ever visible, at its first visible frame. strided: at every fifth frame, one for
    each track that is visible there.
    """
    if mode == "first":
        tracks = np.flatnonzero(visible.any(1))
        return Queries(tracks, visible[tracks].argmax(1))
    frames, tracks = np.nonzero(visible[:, ::QUERY_STRIDE].T)
    return Queries(tracks, frames * QUERY_STRIDE)


def evaluated(visible: NDArray[np.bool_], query_frame: NDArray[np.int64], mode: QueryMode) -> NDArray[np.bool_]:
    """Whether the position of each query counts in each frame (Q, T), given where its track is `visible` (Q, T).

    first: in the frames after that of the query. strided: in all but that of the query.
    """
    frames = np.arange(visible.shape[1])
    counts = frames > query_frame[:, None] if mode == "first" else frames != query_frame[:, None]
    counted: NDArray[np.bool_] = visible & counts
    return counted


def squared_distances(truth: Points, prediction: Points) -> NDArray[np.float64]:
    """Squared distance (Q,) of positions (2, Q); NaN where there is no truth, infinite where only that is known."""
    square = np.square(prediction - truth).sum(0)
    return np.where(np.isnan(truth).any(0), np.nan, np.where(np.isnan(square), np.inf, square))


def shares_within(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share (thresholds,) of the known squared distances that are below each threshold; at least one is known."""
    known = squared[~np.isnan(squared)]
    return np.array([np.mean(known < threshold**2) for threshold in THRESHOLDS])


def points_to_labels(points: Points, side: int, grid: tuple[int, int], sigma: float) -> Tensor:
    """Soft labels (gh, gw, 1 + Q): background where no point is within 3 sigma, then a bump for each point.

    A cell's label is that of its center, so a bump also tells where in its cell the point lies.

    Args:
        points: (2, Q) pixels.
        side: height and width of the frame.
        grid: height and width of the patch grid.
        sigma: standard deviation of a bump, cells.
    """
    rows, columns = (np.arange(size) + 0.5 for size in grid)
    x, y = points[0] * grid[1] / side, points[1] * grid[0] / side
    square = (columns[:, None] - x) ** 2 + (rows[:, None, None] - y) ** 2
    bumps = np.where(square <= (3 * sigma) ** 2, np.exp(-square / (2 * sigma**2)), 0)
    background = (bumps.sum(-1, keepdims=True) == 0).astype(float)
    return torch.from_numpy(np.concatenate([background, bumps], -1)).float()


def labels_to_points(labels: Tensor, side: int, top_cells: int) -> Points:
    """Positions (2, Q), pixels, of soft labels (gh, gw, 1 + Q): the weighted mean of the centers of the highest cells.

    NaN for a point without a label anywhere.
    """
    cells = labels_to_joints(labels, top_cells).cpu().double().numpy()
    scale = np.array([side / labels.shape[1], side / labels.shape[0]])
    return np.where(cells < 0, np.nan, (cells + 0.5) * scale[:, None])
