"""The DAVIS measures: region similarity J, boundary measure F, and their mean, recall and decay over a sequence.

Defined by Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016),
section 5, and for several objects by Pont-Tuset et al., "The 2017 DAVIS Challenge" (arXiv 1704.00675), section 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def region_similarity(truth: Mask, prediction: Mask) -> float:
    """J: intersection over union of two masks (H, W); 1 where both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary(mask: Mask) -> Mask:
    """Pixels (H, W) that differ from their right, lower or lower right neighbour inside the image."""
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def _crop(mask: Mask) -> tuple[slice, slice]:
    """The bounding box of a non-empty mask (H, W), plus one pixel on each side inside the image."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _points(edge: Mask) -> NDArray[np.intp]:
    """Rows and columns (2, N) of the pixels of `edge` (H, W)."""
    return np.stack(np.divmod(np.flatnonzero(edge), edge.shape[1]))


def _near(edge: Mask, points: NDArray[np.intp], radius: int) -> int:
    """How many of the points (2, N) have a pixel of `edge` (H, W) within `radius`.

    A disk is a stack of horizontal runs. A cumulative sum over all pixels, row by row, tells whether a run contains
    one; empty margins keep each run in its row.
    """
    height, width = edge.shape
    padded = np.zeros((height + 2 * radius, width + 2 * radius + 1), np.int32)
    padded[radius : radius + height, radius + 1 : radius + 1 + width] = edge
    count = np.cumsum(padded, dtype=np.int32)
    shift = np.arange(-radius, radius + 1)
    half = np.floor(np.sqrt(radius**2 - shift**2)).astype(int)[:, None]
    middle = (points[0] + radius + shift[:, None]) * padded.shape[1] + points[1] + radius
    return int(np.count_nonzero((count[middle + half + 1] > count[middle - half]).any(0)))


def boundary_measure(truth: Mask, prediction: Mask, tolerance: float = 0.008) -> float:
    """F: harmonic mean of precision and recall of the boundary pixels of two masks (H, W); 1 if neither has any.

    A boundary pixel is matched if the other mask has one within the tolerance (a fraction of the image diagonal,
    rounded up to whole pixels).
    """
    radius = int(np.ceil(tolerance * np.hypot(*truth.shape)))
    shown = truth | prediction
    if not shown.any():
        return 1.0
    crop = _crop(shown)
    edges = boundary(truth[crop]), boundary(prediction[crop])
    true_points, predicted_points = (_points(edge) for edge in edges)
    if not true_points.size or not predicted_points.size:
        return float(true_points.size == predicted_points.size)
    precision = _near(edges[0], predicted_points, radius) / predicted_points.shape[1]
    recall = _near(edges[1], true_points, radius) / true_points.shape[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class Statistics(NamedTuple):
    """Mean, recall and decay of one measure; NaN where no frame was scored."""

    mean: float
    recall: float
    decay: float


def statistics(values: Sequence[float], recall_threshold: float = 0.5, decay_bins: int = 4) -> Statistics:
    """Mean over frames, share of frames above the threshold, and mean of the first part minus that of the last.

    Adjacent parts (quarters by default) share their border frame, as in the official scorer.
    """
    if not values:
        return Statistics(np.nan, np.nan, np.nan)
    array = np.asarray(values)
    edges = np.round(np.linspace(1, len(array), decay_bins + 1) + 1e-10).astype(int) - 1
    decay = array[: edges[1] + 1].mean() - array[edges[-2] :].mean()
    return Statistics(float(array.mean()), float((array > recall_threshold).mean()), float(decay))


def object_row(
    region: Sequence[float], contour: Sequence[float], recall_threshold: float = 0.5, decay_bins: int = 4
) -> dict[str, float]:
    """The scores of one object from its J and F per frame, under the names of the official tables."""
    row = {
        f"{name}-{field.capitalize()}": value
        for name, values in (("J", region), ("F", contour))
        for field, value in statistics(values, recall_threshold, decay_bins)._asdict().items()
    }
    return {"J&F-Mean": (row["J-Mean"] + row["F-Mean"]) / 2} | row
