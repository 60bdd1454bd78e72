"""Clips with index masks: their files, notes on their scoring, and their propagation. Shared by DAVIS and VIP."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.benchmark import Array, Clip, Dataset, LabelPropagation, Scoring, frame_name
from evaluation.frames import (
    VOID,
    Frame,
    Size,
    image_size,
    list_pictures,
    open_frames,
    read_index_mask,
    read_mask,
    shown_size,
)
from evaluation.labels import labels_to_mask, mask_to_labels
from evaluation.pictures import overlay, save_mask
from evaluation.propagation import PropagationSettings
from pipeline.settings import UserError

Mask = NDArray[np.uint8]
_MOST_LISTED = 10


@dataclass(frozen=True)
class MaskClip(Clip):
    """A sequence whose first frame has an index mask."""

    masks: Mapping[int, Path]
    """Mask files by frame index."""
    first_mask: Mask
    """Ids (H, W) of the first frame, with void as background."""
    ids: tuple[int, ...]
    """0 and the ids of the first mask, ascending: the channels of the soft labels."""


class Files(NamedTuple):
    """The files of a sequence."""

    frames: list[Frame]
    masks: dict[int, Path]
    """By frame index; the first frame has one."""
    notes: list[str]


class Observed(NamedTuple):
    """Ids in a scored frame."""

    truth: frozenset[int]
    """Ids in the truth."""
    prediction: frozenset[int]
    size: Size
    """Height and width of the prediction."""


def find_files(frame_folder: Path, mask_folder: Path) -> Files:
    """Find frames and masks, and check that they fit together.

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


class MaskDataset(Dataset[MaskClip]):
    """Clips with index masks; frames are .jpg files and masks .png files of the same name."""

    suffix: ClassVar[str] = ".png"

    @property
    @abstractmethod
    def mask_root(self) -> Path:
        """The folder that has a folder of masks for each sequence."""

    def read_labels(self, path: Path) -> Mask:
        """Ids (H, W) of a mask file, void as background. Raises UserError if it cannot be read."""
        return read_index_mask(path)

    def open(self, name: str) -> MaskClip:
        """Find the files and read the first mask.

        Raises:
            UserError: the files do not fit together, or the first mask cannot be read or has no object.
        """
        files = find_files(self.frame_root / name, self.mask_root / name)
        path = files.masks[0]
        first_mask = self.read_labels(path)
        first_mask = np.where(first_mask == VOID, np.uint8(0), first_mask)
        ids = tuple(np.union1d(first_mask, 0).tolist())
        if len(ids) == 1:
            if (read_mask(path) == VOID).any():
                raise UserError(
                    f"the first mask {path} shows no object, only void ({VOID}); "
                    "masks of 0 and 255, as in DAVIS-2016, must be rewritten to 0 and 1"
                )
            raise UserError(f"the first mask {path} shows no object")
        return MaskClip(name, files.frames, files.notes, files.masks.keys(), files.masks, first_mask, ids)

    def truth(self, clip: MaskClip, index: int) -> Array:
        """The mask of the frame."""
        return self.read_labels(clip.masks[index])

    def annotation_files(self, clip: MaskClip) -> list[Path]:
        """All masks."""
        return list(clip.masks.values())

    def load(self, path: Path, clip: MaskClip) -> Array:
        """A mask of the size of the annotations, as the official scorer of DAVIS demands; 255 is an ordinary id."""
        mask = read_mask(path)
        size, expected = size_of(mask), size_of(clip.first_mask)
        if size != expected:
            raise UserError(f"the mask {path} measures {shown_size(size)}, the truth {shown_size(expected)}")
        return mask

    def save(self, path: Path, prediction: Array) -> None:
        """Write a palette PNG."""
        save_mask(path, prediction)

    def draw(self, frame: Mask, labels: Array) -> Mask:
        """Objects tinted in their colors; the mask is resized to the frame."""
        rows = np.arange(frame.shape[0]) * labels.shape[0] // frame.shape[0]
        columns = np.arange(frame.shape[1]) * labels.shape[1] // frame.shape[1]
        return overlay(frame, labels[rows[:, None], columns])


class MaskScoring(Scoring[MaskClip]):
    """Notes on masks, for any measure."""

    detail: ClassVar[str] = "object"
    late_ids: ClassVar[str] = "not counted"
    """How ids are handled that enter after the first mask."""
    unknown_ids: ClassVar[str] = "counted as background"
    """How predicted ids are handled that no mask of the truth has."""

    def observe(self, truth: Array, prediction: Array) -> Observed:
        """Ids of both masks, and the size of the prediction."""
        return Observed(_ids(truth), _ids(prediction), size_of(prediction))

    def notes(self, clip: MaskClip, observed: Mapping[int, Observed]) -> list[str]:
        """Objects that enter later, predicted ids that do not exist, and predictions of another size."""
        late = {index: frame.truth - {*clip.ids, VOID} for index, frame in observed.items()}
        known = frozenset(clip.ids).union(*late.values())
        unknown = {index: frame.prediction - known for index, frame in observed.items()}
        size = size_of(clip.first_mask)
        resized = {index: frame.size for index, frame in observed.items() if frame.size != size}
        notes = []
        if any(late.values()):
            notes.append(f"ids in the truth but not in the first mask: {_listed(clip, late)}; {self.late_ids}")
        if any(unknown.values()):
            notes.append(f"ids in the predictions but not in the truth: {_listed(clip, unknown)}; {self.unknown_ids}")
        if resized:
            first = min(resized)
            notes.append(
                f"predictions of another size than the truth's {shown_size(size)}: {len(resized)} "
                f"(first {frame_name(clip, first)}, {shown_size(resized[first])}); brought to its size"
            )
        return notes


class MaskPropagation(LabelPropagation[MaskClip]):
    """One channel of soft labels for each id, at one network size for all clips."""

    size: Size = (480, 880)
    """Height and width to which frames are stretched for the network, e.g. --size 480,880; multiples of the patch."""
    propagation: PropagationSettings = PropagationSettings()

    def smallest_size(self) -> Size:
        """The one size."""
        return self.size

    def network_size(self, clip: MaskClip) -> Size:
        """The one size."""
        return self.size

    def first_labels(self, clip: MaskClip, grid: Size) -> Tensor:
        """One channel for each id of the first mask."""
        return mask_to_labels(clip.first_mask, clip.ids, self.network_size(clip), grid)

    def predict(self, clip: MaskClip, labels: Tensor) -> Array:
        """Index mask of the size of the first mask."""
        return labels_to_mask(labels, clip.ids, self.network_size(clip), size_of(clip.first_mask))


def _listed(clip: MaskClip, ids: Mapping[int, frozenset[int]]) -> str:
    """Ids by frame index, as text, with the first frame that has one."""
    every = sorted(frozenset().union(*ids.values()))
    more = f" and {len(every) - _MOST_LISTED} more" if len(every) > _MOST_LISTED else ""
    first = min(index for index, some in ids.items() if some)
    return f"{', '.join(map(str, every[:_MOST_LISTED]))}{more} (first in frame {frame_name(clip, first)})"
