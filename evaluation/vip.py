"""VIP: the body parts of people in a clip's first frame are given, mIoU judges those of all frames.

Layout of the data set, as distributed in VIP_Fine (`Category_ids` may also lie at the root):
    lists/val_videos.txt                        one clip name a line
    Images/CLIP/*.jpg
    Annotations/Category_ids/CLIP/*.png         gray masks of part classes 0 to 19

As in the scorer that goes with the T-CoRe paper, one confusion matrix counts the pixels of all frames of all clips, the
first frames included, and the mean runs over the classes that occur, with the background. `mIoU-per-video` takes the
paper at its word: the mean over clips of the mean over classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from evaluation.command import DataCommand, EvaluationCommand, ScoreCommand
from evaluation.frames import VOID, read_mask
from evaluation.labels import labels_to_mask, resize_mask
from evaluation.masks import Mask, MaskClip, MaskTask, find_files, size_of
from evaluation.propagation import PropagationSettings
from evaluation.task import Array, SequenceResult, check_sequence_name, chosen_sequences, frame_name, read_list
from evaluation.vip_scores import CLASSES, class_iou, confusion, mean_iou, mean_iou_per_video
from pipeline.settings import UserError


class VipOptions(DataCommand):
    """What is scored."""

    split: str = "val"
    """Which list to evaluate: lists/SPLIT_videos.txt."""


class VipScoreCommand(ScoreCommand, VipOptions):
    """Score masks of anyone on VIP (mIoU of body parts)."""

    program: ClassVar[str] = "python -m evaluation score vip"


class VipCommand(EvaluationCommand, VipOptions):
    """Score frozen features on VIP by label propagation (mIoU of body parts)."""

    program: ClassVar[str] = "python -m evaluation vip"

    long_side: int = Field(default=880, ge=1, le=2**16)
    """Longer side of the network's input, pixels; a multiple of the patch size."""
    side_multiple: int = Field(default=64, ge=1, le=2**16)
    """The shorter side keeps the aspect ratio and is rounded down to a multiple of this."""
    propagation: PropagationSettings = PropagationSettings(top_k=10)


def network_size(frame: tuple[int, int], long_side: int, multiple: int) -> tuple[int, int]:
    """(height, width) for a frame of (height, width): the longer side as given, the other rounded down."""
    height, width = frame
    short = max(multiple, int(long_side * min(frame) / max(frame)) // multiple * multiple)
    return (short, long_side) if height <= width else (long_side, short)


def _without_void(mask: Mask) -> Mask:
    return np.where(mask == VOID, np.uint8(0), mask)


class Vip(MaskTask):
    """VIP in one folder."""

    name = "vip"
    title = "VIP"
    columns = ("mIoU", "mIoU-per-video")
    detail = "class"
    late_ids = "counted like all others, although labels of the first frame cannot lead to them"
    unknown_ids = f"void ({VOID}) counts as background, a class with an IoU of 0"

    def __init__(self, options: VipOptions) -> None:
        self._options = options
        nested = options.data / "Annotations" / "Category_ids"
        self._masks = nested if nested.is_dir() else options.data / "Category_ids"
        self.propagation = options.propagation if isinstance(options, VipCommand) else PropagationSettings()

    def smallest_size(self) -> tuple[int, int]:
        """The long side and the step of the other one."""
        assert isinstance(self._options, VipCommand)
        return self._options.side_multiple, self._options.long_side

    def names(self) -> list[str]:
        """The list of the split, or the clips asked for."""
        options = self._options
        if options.sequences:
            return chosen_sequences(options.sequences, options.data / "Images")
        return read_list(options.data / "lists" / f"{options.split}_videos.txt")

    def open(self, name: str) -> MaskClip:
        """Collect frames and masks; the network's size follows from the first frame."""
        check_sequence_name(name)
        files = find_files(self._options.data / "Images" / name, self._masks / name)
        size = files.frames[0].size
        if isinstance(self._options, VipCommand):
            size = network_size(size, self._options.long_side, self._options.side_multiple)
        return self.make_clip(name, files, size)

    def read_mask(self, path: Path) -> Mask:
        """Part classes, void as background."""
        return _without_void(self._classes(path))

    def _classes(self, path: Path) -> Mask:
        mask = read_mask(path)
        for value in np.setdiff1d(mask, [*range(len(CLASSES)), VOID]):
            raise UserError(f"the mask {path} has the value {value}; classes are 0 to {len(CLASSES) - 1}, void {VOID}")
        return mask

    def predict(self, clip: MaskClip, labels: Tensor) -> Array:
        """A mask of the network's size, brought to the size of the annotations as in the official scorer."""
        mask = labels_to_mask(labels, clip.ids, clip.network_size, clip.network_size)
        return resize_mask(mask, size_of(clip.first_mask))

    def load(self, path: Path, clip: MaskClip) -> Array:
        """A mask of classes and void, of any size."""
        return self._classes(path)

    def truth(self, clip: MaskClip, number: int) -> Array | None:
        """The mask of the frame with its void."""
        return self._classes(clip.masks[number]) if number in clip.masks else None

    def draw(self, frame: Mask, prediction: Array) -> Mask:
        """Parts tinted in their colors, void as background."""
        return super().draw(frame, _without_void(prediction))

    def is_scored(self, clip: MaskClip, number: int) -> bool:
        """Every frame that has a mask, the first one too."""
        return number in clip.masks

    def compare(self, clip: MaskClip, truth: Array, prediction: Array) -> Array:
        """Pixels (20, 20) by true and predicted class; void pixels of the truth are left out.

        The prediction is brought to the size of the truth as in the official scorer.
        """
        return confusion(truth, resize_mask(_without_void(prediction), size_of(truth)))

    def result(self, clip: MaskClip, judged: Mapping[int, Any]) -> SequenceResult:
        """From the confusion matrix of the clip."""
        counts = np.sum(list(judged.values()), 0)
        iou = class_iou(counts)
        return SequenceResult(
            status="scored",
            frames=len(clip.frames),
            frames_scored=len(judged),
            scores={"mIoU": mean_iou(counts), "mIoU-per-video": mean_iou(counts)},
            details={CLASSES[one]: {"IoU": float(iou[one])} for one in np.flatnonzero(np.isfinite(iou))},
            over_time={frame_name(clip, number): mean_iou(frame) for number, frame in judged.items()},
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

    def protocol(self) -> dict[str, Any]:
        """Split, sizes, propagation, and which of the two means is the score."""
        include = {"split", "sequences", "long_side", "side_multiple", "propagation"}
        return self._options.model_dump(mode="json", include=include) | {"score": "mIoU over all frames of all clips"}
