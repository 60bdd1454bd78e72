"""Clips with index masks: their files, notes on their scoring, and their propagation. Shared by DAVIS and VIP."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from evaluation.benchmark import Array, Clip, Dataset, LabelPropagation, Scoring, frame_name
from evaluation.frames import (
    VOID,
    Frame,
    Resampling,
    Side,
    Size,
    image_size,
    list_pictures,
    open_frames,
    read_index_mask,
    read_mask,
    shown_size,
)
from evaluation.labels import (
    labels_to_mask,
    labels_to_mask_of_dino,
    labels_to_mask_of_dinov3,
    mask_to_labels,
    mask_to_labels_of_dino,
    mask_to_labels_of_dinov3,
)
from evaluation.pictures import overlay, save_mask
from evaluation.propagation import PropagationSettings
from evaluation.protocols import MASK_PROTOCOLS
from pipeline.settings import UserError


def _one_or_two_numbers(size: object) -> object:
    if isinstance(size, list | tuple) and len(size) not in (1, 2):
        raise ValueError("must be a height and a width, as in 480,880, or the shorter side alone")
    return size


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
        """Objects tinted in their colors."""
        return overlay(frame, labels)


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
    """One channel of soft labels for each id."""

    protocols: ClassVar = MASK_PROTOCOLS

    size: Annotated[tuple[Side, ...], BeforeValidator(_one_or_two_numbers)] = (480, 880)
    """Height and width to which frames are stretched, e.g. --size 480,880; one number: the shorter side."""
    side_multiple: int | None = Field(default=None, ge=1, le=2**16)
    """With one number, sides are rounded to multiples of this; by default, of the patch size."""
    rounding: Literal["down", "up"] = "down"
    """Down: of the longer side, which keeps the aspect ratio roughly. Up: of both sides."""
    resampling: Resampling = "t-core"
    """Whose way of resizing frames and masks, and of reading masks from the patch grid."""
    propagation: PropagationSettings = PropagationSettings()

    def fitted(self, patch_size: int) -> "MaskPropagation":
        """With the patch size as the multiple, if none is given."""
        if len(self.size) == 2 or self.side_multiple is not None:
            return self
        return self.model_copy(update={"side_multiple": patch_size})

    def frame_resampling(self) -> Resampling:
        """That of the protocol."""
        return self.resampling

    def smallest_size(self) -> Size:
        """The one size, or the shorter side and the step of the longer one."""
        return (self.size[0], self.size[1]) if len(self.size) == 2 else (self._short(), self._multiple())

    def network_size(self, clip: MaskClip) -> Size:
        """The one size, or that of the first frame with its shorter side resized to the given one."""
        if len(self.size) == 2:
            return self.size[0], self.size[1]
        height, width = clip.frames[0].size
        longer = self._rounded(self._short() * max(height, width), min(height, width))
        return (self._short(), longer) if height <= width else (longer, self._short())

    def _multiple(self) -> int:
        return self.side_multiple or 1

    def _short(self) -> int:
        return self._rounded(self.size[0], 1) if self.rounding == "up" else self.size[0]

    def _rounded(self, numerator: int, denominator: int) -> int:
        step = denominator * self._multiple()
        steps = -(-numerator // step) if self.rounding == "up" else max(1, numerator // step)
        return steps * self._multiple()

    def first_labels(self, clip: MaskClip, grid: Size) -> Tensor:
        """One channel for each id of the first mask."""
        if self.resampling == "t-core":
            return mask_to_labels(clip.first_mask, clip.ids, self.network_size(clip), grid)
        one_hot = mask_to_labels_of_dino if self.resampling == "dino" else mask_to_labels_of_dinov3
        return one_hot(clip.first_mask, clip.ids, grid)

    def predict(self, clip: MaskClip, labels: Tensor) -> Array:
        """Index mask of the size of the first mask."""
        size = size_of(clip.first_mask)
        if self.resampling == "dinov3":
            return labels_to_mask_of_dinov3(labels, clip.ids, size)
        read = labels_to_mask_of_dino if self.resampling == "dino" else labels_to_mask
        return read(labels, clip.ids, self.network_size(clip), size)


def _listed(clip: MaskClip, ids: Mapping[int, frozenset[int]]) -> str:
    """Ids by frame index, as text, with the first frame that has one."""
    every = sorted(frozenset().union(*ids.values()))
    more = f" and {len(every) - _MOST_LISTED} more" if len(every) > _MOST_LISTED else ""
    first = min(index for index, some in ids.items() if some)
    return f"{', '.join(map(str, every[:_MOST_LISTED]))}{more} (first in frame {frame_name(clip, first)})"
