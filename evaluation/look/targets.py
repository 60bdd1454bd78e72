"""What is propagated from the first frame of a video: the objects of a mask, or points."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.benchmark import Array
from evaluation.frames import VOID, Frame, Size, read_mask, shown_size
from evaluation.jhmdb_scores import Points
from evaluation.masks import MaskClip, MaskPropagation
from evaluation.pictures import Picture, draw_points, overlay
from evaluation.tapvid import PointPropagation
from evaluation.tapvid_scores import labels_to_points, points_to_labels
from pipeline.settings import UserError

_SLANT = 0.03
"""Relative difference of the aspect ratios of mask and video above which they do not belong together."""
_POINTS = PointPropagation()


class Target(Protocol):
    """Labels of the first frame, and how their propagated form is read and drawn."""

    def first_labels(self, grid: Size) -> Tensor:
        """Soft labels (gh, gw, L) of the first frame."""
        ...

    def predict(self, labels: Tensor) -> Array:
        """Mask or points of a frame from its soft labels (gh, gw, L)."""
        ...

    def draw(self, frame: Picture, prediction: Array) -> Picture:
        """A frame (H, W, 3) with the prediction."""
        ...


class MaskTarget(NamedTuple):
    """The objects of an index mask."""

    propagation: MaskPropagation
    clip: MaskClip

    def first_labels(self, grid: Size) -> Tensor:
        """One channel for each id."""
        return self.propagation.first_labels(self.clip, grid)

    def predict(self, labels: Tensor) -> Array:
        """Index mask of the size of the first mask."""
        return self.propagation.predict(self.clip, labels)

    def draw(self, frame: Picture, prediction: Array) -> Picture:
        """Objects tinted in their colors."""
        return overlay(frame, prediction)


class PointTarget(NamedTuple):
    """Points; each is a small bump of soft labels, as for TAP-Vid-DAVIS."""

    points: Points
    """(2, N) x and y as shares of width and height."""

    def first_labels(self, grid: Size) -> Tensor:
        """Background and one channel for each point."""
        return points_to_labels(self.points, 1, grid, _POINTS.sigma)

    def predict(self, labels: Tensor) -> Array:
        """(2, N) shares of width and height; NaN for points that are lost."""
        return labels_to_points(labels, 1, _POINTS.top_cells)

    def draw(self, frame: Picture, prediction: Array) -> Picture:
        """A dot for each point that is not lost."""
        return draw_points(frame, prediction * np.array(frame.shape[1::-1])[:, None])


def read_target_mask(path: Path, frame: Size) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """A mask (H, W) and its ids with 0, for a video whose frames have the size `frame`.

    A mask of 0 and 255 alone shows one object; beside other ids 255 is void, that is background.

    Raises:
        UserError: the mask cannot be read, shows no object, or has another shape than the frames.
    """
    mask = read_mask(path)
    binary = set(np.unique(mask).tolist()) <= {0, VOID}
    mask = np.where(mask == VOID, np.uint8(binary), mask)
    ids = tuple(np.union1d(mask, 0).tolist())
    if len(ids) == 1:
        raise UserError(f"the mask {path} shows no object: pixels of objects must have an id from 1")
    ratio = mask.shape[1] * frame[0] / (mask.shape[0] * frame[1])
    if abs(ratio - 1) > _SLANT:
        raise UserError(
            f"the mask {path} measures {shown_size((mask.shape[0], mask.shape[1]))}, the frames of the video "
            f"{shown_size(frame)}: it must be of the same shape, drawn on the first frame"
        )
    return mask, ids


def mask_target(path: Path, video: MaskClip, propagation: MaskPropagation) -> MaskTarget:
    """The objects of the mask in a file, for a video that was opened with `video_clip`.

    Raises:
        UserError: as for `read_target_mask`.
    """
    mask, ids = read_target_mask(path, video.frames[0].size)
    size: Any = {"masks": {0: path}, "first_mask": mask, "ids": ids}
    return MaskTarget(propagation, MaskClip(video.name, video.frames, [], (0,), **size))


def video_clip(path: Path, size: Size) -> MaskClip:
    """A video as a clip without labels; all its frames have one size."""
    return MaskClip(path.stem, [Frame(path, size, 1)], [], (), {}, np.zeros((1, 1), np.uint8), (0,))


def read_points(numbers: Sequence[float]) -> Points:
    """(2, N) of x, y, x, y, ...

    Raises:
        ValueError: they are not pairs.
    """
    if len(numbers) % 2:
        raise ValueError("must be pairs of x,y, as shares of width and height, e.g. 0.5,0.25,0.6,0.3")
    return np.array(numbers, float).reshape(-1, 2).T
