"""The JHMDB measure PCK, joints as soft labels, and joints from soft labels.

PCK@a is the share of joints within `a` times the size of the person (Yang and Ramanan, "Articulated Human
Detection with Flexible Mixtures of Parts", PAMI 2013); the person's size is 0.6 times the diagonal of the box of the
true joints. Joints are in the order of JHMDB; arrays have x, y first, as its files do.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

JOINTS = (
    *("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow"),
    *("left elbow", "right knee", "left knee", "right wrist", "left wrist", "right ankle", "left ankle"),
)
LIMBS = (
    *((0, 2), (0, 1), (0, 3), (3, 7), (7, 11), (0, 4), (4, 8), (8, 12)),
    *((1, 5), (5, 9), (9, 13), (1, 6), (6, 10), (10, 14)),
)
"""Pairs of joints that are connected in drawings."""

Points = NDArray[np.float64]


def gaussian(grid: tuple[int, int], x: float, y: float, sigma: float) -> NDArray[np.float64]:
    """A bump (gh, gw) of height 1 at a position in cells; zero if it is outside by 3 sigma.

    As in the released code the bump is drawn on whole cells: around the nearest cell (at the left and upper border up
    to one cell off), and extends one cell farther to the left and up than to the right and down.
    """
    height, width = grid
    left, top = int(x - 3 * sigma), int(y - 3 * sigma)
    right, bottom = int(x + 3 * sigma + 1), int(y + 3 * sigma + 1)
    bump = np.zeros(grid)
    if left >= width or top >= height or right < 0 or bottom < 0:
        return bump
    middle = (6 * sigma + 1) // 2
    columns, rows = np.arange(max(0, left), min(right, width)), np.arange(max(0, top), min(bottom, height))
    square = (columns - left - middle) ** 2 + (rows[:, None] - top - middle) ** 2
    bump[rows[:, None], columns] = np.exp(-square / (2 * sigma**2))
    return bump


def joints_to_labels(joints: Points, frame: tuple[int, int], grid: tuple[int, int], sigma: float) -> Tensor:
    """Soft labels (gh, gw, 1 + J): background where there is no bump, then a bump for each joint.

    Args:
        joints: (2, J) zero-based pixel positions.
        frame: height and width of the frame.
        grid: height and width of the patch grid.
        sigma: width of the bumps, cells.
    """
    x, y = joints[0] * grid[1] / frame[1], joints[1] * grid[0] / frame[0]
    bumps = np.stack([gaussian(grid, *position, sigma) for position in zip(x, y, strict=True)], -1)
    background = (bumps.sum(-1, keepdims=True) == 0).astype(float)
    return torch.from_numpy(np.concatenate([background, bumps], -1)).float()


def labels_to_joints(labels: Tensor, top_cells: int) -> Tensor:
    """Positions (2, J) in cells of soft labels (gh, gw, 1 + J): the weighted mean of each joint's highest cells.

    Joints without a label anywhere (lost ones) are at -1, -1.
    """
    joints = labels[..., 1:].flatten(0, 1)
    best = joints.topk(min(top_cells, len(joints)), dim=0)
    weights = best.values / best.values.sum(0)
    cells = torch.stack([best.indices % labels.shape[1], best.indices // labels.shape[1]])
    return torch.where(joints.sum(0) == 0, -1.0, (cells * weights).sum(1))


def normalized_distances(truth: Points, prediction: Points, box_scale: float) -> NDArray[np.float64]:
    """Distance (J,) of each joint to its true position over the size of the person; NaN for lost joints.

    Args:
        truth: (2, J) pixels.
        prediction: (2, J) pixels; NaN for lost joints, which do not count for the size either.
        box_scale: size of the person over the diagonal of the box around the true joints.
    """
    seen = np.isfinite(prediction).all(0)
    distance = np.full(truth.shape[1], np.nan)
    if seen.any():
        size = box_scale * np.hypot(*np.ptp(truth[:, seen], axis=1))
        distance[seen] = np.hypot(*(prediction - truth)[:, seen]) / size if size else np.inf
    return distance


def correct_shares(distances: NDArray[np.float64], thresholds: Sequence[float]) -> NDArray[np.float64]:
    """PCK (thresholds, J) of normalized distances (frames, J); NaN for a joint that is lost in every frame."""
    seen = ~np.isnan(distances)
    right = np.stack([(distances <= threshold).sum(0) for threshold in thresholds])
    return np.where(seen.any(0), right / np.maximum(seen.sum(0), 1), np.nan)


def pck(distances: NDArray[np.float64], thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Mean PCK (thresholds,) over the joints; NaN if all joints are lost."""
    shares = correct_shares(distances, thresholds)
    known = np.isfinite(shares).all(0)
    return shares[:, known].mean(1) if known.any() else np.full(len(thresholds), np.nan)
