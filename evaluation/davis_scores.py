"""The DAVIS measures: region similarity J, boundary measure F, and their mean, recall and decay over a sequence.

Defined by Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016),
section 5, and for several objects by Pont-Tuset et al., "The 2017 DAVIS Challenge" (arXiv 1704.00675), section 4.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

BOUNDARY_TOLERANCE = 0.008
"""Distance up to which two boundary pixels match, as a fraction of the image diagonal."""
RECALL_THRESHOLD = 0.5
DECAY_BINS = 4

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


def _points(mask: Mask) -> NDArray[np.intp]:
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), 1)


def _matched_fraction(points: NDArray[np.intp], others: NDArray[np.intp], radius: int) -> float:
    # Squared distances are whole numbers, so this bound lets pass what is not farther than `radius`.
    distance, _ = cKDTree(others).query(points, distance_upper_bound=np.sqrt(radius**2 + 0.5))
    return np.count_nonzero(np.isfinite(distance)) / len(points)


def boundary_measure(truth: Mask, prediction: Mask) -> float:
    """F: harmonic mean of precision and recall of the boundary pixels of two masks (H, W); 1 where none has any.

    A boundary pixel is matched if the other mask has one within the tolerance, rounded up to whole pixels.
    """
    radius = int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(*truth.shape)))
    true_points, predicted_points = _points(boundary(truth)), _points(boundary(prediction))
    if not len(true_points) or not len(predicted_points):
        return float(len(true_points) == len(predicted_points))
    precision = _matched_fraction(predicted_points, true_points, radius)
    recall = _matched_fraction(true_points, predicted_points, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class Statistics(NamedTuple):
    """Mean, recall and decay of one measure; NaN where no frame was scored."""

    mean: float
    recall: float
    decay: float


def statistics(values: Sequence[float]) -> Statistics:
    """Mean over frames, share of frames above 0.5, and mean of the first quarter of frames minus that of the last.

    The quarters share their border frames, as in the official scorer.
    """
    if not values:
        return Statistics(np.nan, np.nan, np.nan)
    array = np.asarray(values)
    edges = np.round(np.linspace(1, len(array), DECAY_BINS + 1) + 1e-10).astype(int) - 1
    decay = array[: edges[1] + 1].mean() - array[edges[-2] :].mean()
    return Statistics(float(array.mean()), float((array > RECALL_THRESHOLD).mean()), float(decay))


def object_row(region: Sequence[float], contour: Sequence[float]) -> dict[str, float]:
    """The scores of one object from its J and F per frame, under the names of the official tables."""
    measures = {"J": statistics(region), "F": statistics(contour)}
    row = {
        f"{name}-{field.capitalize()}": value for name, s in measures.items() for field, value in s._asdict().items()
    }
    return {"J&F-Mean": (row["J-Mean"] + row["F-Mean"]) / 2} | row


def mean_row(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of the rows of several objects, which all weigh the same; `rows` is not empty."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
