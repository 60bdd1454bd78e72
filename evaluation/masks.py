"""What DAVIS and VIP share: clips with index masks, and index masks as predictions."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.frames import VOID, Frame, Size, image_size, list_pictures, open_frames, read_mask, shown_size
from evaluation.labels import labels_to_mask, mask_to_labels
from evaluation.pictures import overlay, save_mask
from evaluation.task import Array, Clip, Task, frame_name
from pipeline.settings import UserError

Mask = NDArray[np.uint8]
_MOST_LISTED = 10


@dataclass(frozen=True)
class MaskClip(Clip):
    """A sequence whose first frame has an index mask."""

    masks: Mapping[int, Path]
    """Mask files by the number of their frame."""
    first_mask: Mask
    """Ids (H, W) of the first frame, without void."""
    ids: tuple[int, ...]
    """0 and the ids of the first mask, in order: the channels of the soft labels."""
    network_size: Size


class Files(NamedTuple):
    """The files of a sequence."""

    frames: list[Frame]
    masks: dict[int, Path]
    """By the number of their frame; the first frame has one."""
    notes: list[str]


class Observed(NamedTuple):
    """What a scored frame shows."""

    truth: frozenset[int]
    """Ids in the truth."""
    prediction: frozenset[int]
    size: Size
    """Height and width of the prediction."""


def find_files(frame_folder: Path, mask_folder: Path) -> Files:
    """Frames in order and masks by the number of their frame, checked to fit together.

    Raises:
        UserError: no frames, a mask without its frame, no mask for the first frame, or masks of several sizes.
    """
    paths = list_pictures(frame_folder, ".jpg", ".jpeg")
    if not paths:
        raise UserError(f"there are no .jpg frames in {frame_folder}")
    position = {path.stem: number for number, path in enumerate(paths)}
    masks = {}
    for file in list_pictures(mask_folder, ".png"):
        if file.stem not in position:
            raise UserError(f"the mask {file} has no frame {frame_folder / file.stem}.jpg")
        masks[position[file.stem]] = file
    if 0 not in masks:
        raise UserError(f"the first frame {paths[0]} has no mask {mask_folder / paths[0].stem}.png to start from")
    sizes = {number: image_size(file) for number, file in masks.items()}
    for number, size in sizes.items():
        if size != sizes[0]:
            raise UserError(
                f"the mask {masks[number]} measures {shown_size(size)}, "
                f"but {masks[0].name} of the same sequence {shown_size(sizes[0])}"
            )
    frames, notes = open_frames(paths, lambda size: abs(_slope(size) - _slope(sizes[0])))
    if frames[0].size != sizes[0]:
        notes.append(
            f"size of the frames {shown_size(frames[0].size)}, of the masks {shown_size(sizes[0])}; "
            "one is stretched to the other"
        )
    return Files(frames, masks, notes)


def size_of(mask: Mask) -> Size:
    """Height and width of a mask."""
    return mask.shape[0], mask.shape[1]


def _slope(size: Size) -> float:
    return math.log(size[0]) - math.log(size[1])


def _ids(mask: Mask) -> frozenset[int]:
    shown = np.zeros(256, bool)
    shown[mask] = True
    return frozenset(np.flatnonzero(shown).tolist())


class MaskTask(Task[MaskClip]):
    """A benchmark of index masks."""

    suffix = ".png"
    late_ids: ClassVar[str] = "not counted"
    """What becomes of ids of the truth that the first mask lacks, for the notes."""
    unknown_ids: ClassVar[str] = "counted as background"
    """What becomes of predicted ids that no mask of the truth has."""

    @abstractmethod
    def read_mask(self, path: Path) -> Mask:
        """Ids (H, W) of a mask file, void as background. Raises UserError if it holds none."""

    def make_clip(self, name: str, files: Files, network_size: Size) -> MaskClip:
        """Read the first mask and the ids in it.

        Raises:
            UserError: it cannot be read or shows no object.
        """
        path = files.masks[0]
        first_mask = self.read_mask(path)
        ids = tuple(int(one) for one in np.union1d(first_mask, 0))
        if len(ids) == 1:
            if (read_mask(path) == VOID).any():
                raise UserError(
                    f"the first mask {path} shows no object, only void ({VOID}); "
                    "masks of 0 and 255, as in DAVIS-2016, must be rewritten to 0 and 1"
                )
            raise UserError(f"the first mask {path} shows no object")
        return MaskClip(name, files.frames, files.notes, files.masks, first_mask, ids, network_size)

    def observe(self, truth: Array, prediction: Array) -> Observed:
        """Ids of both, and the size of the prediction."""
        return Observed(_ids(truth), _ids(prediction), size_of(prediction))

    def notes(self, clip: MaskClip, observed: Mapping[int, Observed]) -> list[str]:
        """Objects that enter later, predicted ids that are none, and predictions of another size."""
        late = {number: frame.truth - {*clip.ids, VOID} for number, frame in observed.items()}
        known = frozenset(clip.ids).union(*late.values())
        unknown = {number: frame.prediction - known for number, frame in observed.items()}
        size = size_of(clip.first_mask)
        resized = {number: frame.size for number, frame in observed.items() if frame.size != size}
        notes = []
        if any(late.values()):
            notes.append(f"ids in the truth but not in the first mask: {_listed(clip, late)}; {self.late_ids}")
        if any(unknown.values()):
            notes.append(f"ids in the predictions but not in the truth: {_listed(clip, unknown)}; {self.unknown_ids}")
        if resized:
            number = min(resized)
            notes.append(
                f"predictions of another size than the truth's {shown_size(size)}: {len(resized)} "
                f"(first {frame_name(clip, number)}, {shown_size(resized[number])}); brought to its size"
            )
        return notes

    def network_size(self, clip: MaskClip) -> tuple[int, int]:
        """As chosen when the clip was opened."""
        return clip.network_size

    def first_labels(self, clip: MaskClip, grid: tuple[int, int]) -> Tensor:
        """One channel for each id of the first mask."""
        return mask_to_labels(clip.first_mask, clip.ids, clip.network_size, grid)

    def predict(self, clip: MaskClip, labels: Tensor) -> Array:
        """Index mask of the size of the first mask."""
        return labels_to_mask(labels, clip.ids, clip.network_size, size_of(clip.first_mask))

    def save(self, path: Path, prediction: Array) -> None:
        """A palette PNG."""
        save_mask(path, prediction)

    def truth(self, clip: MaskClip, number: int) -> Array | None:
        """The mask of the frame, void as background."""
        return self.read_mask(clip.masks[number]) if number in clip.masks else None

    def annotation_files(self, clip: MaskClip) -> list[Path]:
        """All masks."""
        return list(clip.masks.values())

    def draw(self, frame: Mask, prediction: Array) -> Mask:
        """Objects tinted in their colors; the mask is brought to the size of the frame."""
        rows = np.arange(frame.shape[0]) * prediction.shape[0] // frame.shape[0]
        columns = np.arange(frame.shape[1]) * prediction.shape[1] // frame.shape[1]
        return overlay(frame, prediction[rows[:, None], columns])


def _listed(clip: MaskClip, ids: Mapping[int, frozenset[int]]) -> str:
    """Ids, given by the number of their frame, and the first frame that has one."""
    every = sorted(frozenset().union(*ids.values()))
    more = f" and {len(every) - _MOST_LISTED} more" if len(every) > _MOST_LISTED else ""
    first = min(number for number, some in ids.items() if some)
    return f"{', '.join(map(str, every[:_MOST_LISTED]))}{more} (first in frame {frame_name(clip, first)})"
