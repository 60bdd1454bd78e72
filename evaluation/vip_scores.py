"""The VIP measure: intersection over union of the 20 part classes, from one confusion matrix.

Defined by Zhou et al., "Adaptive Temporal Encoding Network for Video Instance-level Human Parsing" (ACM MM 2018).
The T-CoRe paper describes an overlap "for each video and each class" (appendix B.2); the released scorer counts the
pixels of all clips together. Both are here.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

CLASSES = (
    *("background", "hat", "hair", "sunglasses", "upper clothes", "dress", "coat", "socks", "trousers", "gloves"),
    *("scarf", "skirt", "torso skin", "face", "right arm", "left arm", "right leg", "left leg", "right shoe"),
    "left shoe",
)

Counts = NDArray[np.int64]


def confusion(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Counts:
    """Pixels (20, 20) by true class (row) and predicted class (column) of two masks (H, W).

    Pixels whose true value is not a class are left out. Predicted values must be classes.
    """
    size, known = len(CLASSES), truth < len(CLASSES)
    pairs = size * truth[known].astype(np.int64) + prediction[known]
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union (20,); NaN for a class in neither truth nor prediction."""
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return np.where(union > 0, counts.diagonal() / np.maximum(union, 1), np.nan)


def mean_iou(counts: Counts) -> float:
    """Mean over the classes that occur, background included; NaN if nothing was counted."""
    iou = class_iou(counts)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def mean_iou_per_video(clips: Iterable[Counts]) -> float:
    """Mean over the clips of the mean over the classes that occur in the clip."""
    return float(np.nanmean([mean_iou(counts) for counts in clips]))
