"""VIP: the body parts of people in a clip's first frame are given, mIoU scores those of all frames.

Layout of the data set, as distributed in VIP_Fine (`Category_ids` may also be at the root):
    lists/val_videos.txt                        one clip name per line
    Images/CLIP/*.jpg
    Annotations/Category_ids/CLIP/*.png         gray masks of part classes 0 to 19

As in the scorer released with the T-CoRe paper, one confusion matrix counts the pixels of all frames of all clips,
first frames included, and the mean is over the classes that occur, background included. `mIoU-per-video` is what the
text of the paper describes: the mean over clips of the mean over classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from evaluation.benchmark import Array, Benchmark, ClipScores, LabelPropagation, SequenceResult
from evaluation.frames import VOID, Size, read_mask
from evaluation.labels import labels_to_mask, mask_to_labels, resize_mask
from evaluation.masks import Mask, MaskClip, MaskDataset, MaskScoring, size_of
from evaluation.propagation import PropagationSettings
from evaluation.sequences import read_list
from evaluation.vip_scores import CLASSES, class_iou, confusion, mean_iou, mean_iou_per_video
from pipeline.settings import UserError


def network_size(frame: Size, long_side: int, multiple: int) -> Size:
    """(height, width) for a frame of (height, width): the longer side as given, the other rounded down."""
    height, width = frame
    short = max(multiple, int(long_side * min(frame) / max(frame)) // multiple * multiple)
    return (short, long_side) if height <= width else (long_side, short)


def _without_void(mask: Mask) -> Mask:
    return np.where(mask == VOID, np.uint8(0), mask)


class Vip(MaskDataset):
    """VIP in one folder."""

    split: str = "val"
    """Which list to evaluate: lists/SPLIT_videos.txt."""

    @property
    def frame_root(self) -> Path:
        """Images."""
        return self.data / "Images"

    @property
    def mask_root(self) -> Path:
        """Category_ids, in Annotations or at the root."""
        nested = self.data / "Annotations" / "Category_ids"
        return nested if nested.is_dir() else self.data / "Category_ids"

    def listed(self) -> list[str]:
        """The list of the split."""
        return read_list(self.data / "lists" / f"{self.split}_videos.txt")

    def read_labels(self, path: Path) -> Mask:
        """Classes and void."""
        mask = read_mask(path)
        for value in np.setdiff1d(mask, [*range(len(CLASSES)), VOID]):
            raise UserError(f"the mask {path} has the value {value}; classes are 0 to {len(CLASSES) - 1}, void {VOID}")
        return mask

    def load(self, path: Path, clip: MaskClip) -> Array:
        """A mask of classes and void, of any size."""
        return self.read_labels(path)

    def draw(self, frame: Mask, labels: Array) -> Mask:
        """Parts tinted in their colors, void as background."""
        return super().draw(frame, _without_void(labels))


class VipScoring(MaskScoring):
    """Mean intersection over union of 20 classes."""

    columns: ClassVar = ("mIoU", "mIoU-per-video")
    detail: ClassVar[str] = "class"
    constants: ClassVar = {"score": "mIoU over all frames of all clips"}
    late_ids: ClassVar[str] = "counted like all others, although labels of the first frame cannot lead to them"
    unknown_ids: ClassVar[str] = f"void ({VOID}) counts as background, a class with an IoU of 0"

    def scored_frames(self, clip: MaskClip) -> range:
        """All frames, the first one too."""
        return range(len(clip.frames))

    def compare(self, clip: MaskClip, truth: Array, prediction: Array) -> Array:
        """Pixels (20, 20) by true and predicted class; void pixels of the truth are left out.

        The prediction is resized to the truth as in the official scorer.
        """
        return confusion(truth, resize_mask(_without_void(prediction), size_of(truth)))

    def result(self, clip: MaskClip, compared: Mapping[int, Any]) -> ClipScores:
        """From the confusion matrix of the clip."""
        counts = np.sum(list(compared.values()), 0)
        iou = class_iou(counts)
        return ClipScores(
            scores={"mIoU": mean_iou(counts), "mIoU-per-video": mean_iou(counts)},
            details={CLASSES[one]: {"IoU": float(iou[one])} for one in np.flatnonzero(np.isfinite(iou))},
            over_time={index: mean_iou(frame) for index, frame in compared.items()},
            counts=counts,
        )

    def summary(self, results: Sequence[SequenceResult]) -> dict[str, Any]:
        """From the confusion matrix of all clips, and per video."""
        clips = [result.counts for result in results if result.counts is not None]
        counts = np.sum(clips, 0)
        return {
            "scores": {"mIoU": mean_iou(counts), "mIoU-per-video": mean_iou_per_video(clips)},
            "details": {name: {"IoU": iou} for name, iou in zip(CLASSES, class_iou(counts).tolist(), strict=True)},
            "confusion": counts.tolist(),
        }


class VipPropagation(LabelPropagation[MaskClip]):
    """One channel of soft labels for each class, at a network size that keeps the aspect ratio roughly."""

    long_side: int = Field(default=880, ge=1, le=2**16)
    """Longer side of the network's input, pixels; a multiple of the patch size."""
    side_multiple: int = Field(default=64, ge=1, le=2**16)
    """The shorter side keeps the aspect ratio and is rounded down to a multiple of this."""
    propagation: PropagationSettings = PropagationSettings(top_k=10)

    def smallest_size(self) -> Size:
        """The step of the shorter side, and the longer side."""
        return self.side_multiple, self.long_side

    def network_size(self, clip: MaskClip) -> Size:
        """From the first frame's size."""
        return network_size(clip.frames[0].size, self.long_side, self.side_multiple)

    def first_labels(self, clip: MaskClip, grid: Size) -> Tensor:
        """One channel for each class of the first mask."""
        return mask_to_labels(clip.first_mask, clip.ids, self.network_size(clip), grid)

    def predict(self, clip: MaskClip, labels: Tensor) -> Array:
        """A mask of the network's size, resized to the annotations as in the official scorer."""
        size = self.network_size(clip)
        return resize_mask(labels_to_mask(labels, clip.ids, size, size), size_of(clip.first_mask))


VIP = Benchmark("vip", "VIP", "mIoU of body parts", Vip, VipScoring, VipPropagation)
