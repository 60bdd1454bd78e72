"""What DAVIS and VIP share: clips with index masks, and index masks as predictions."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.frames import image_size
from evaluation.labels import labels_to_mask, mask_to_labels
from evaluation.pictures import overlay, save_mask
from evaluation.task import Array, Clip, Task
from pipeline.settings import UserError

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskClip(Clip):
    """A sequence whose first frame has an index mask."""

    masks: Mapping[int, Path]
    """Mask files by the number of their frame."""
    first_mask: Mask
    """Ids (H, W) of the first frame, without void."""
    ids: tuple[int, ...]
    """0 and the ids of the first mask, in order: the channels of the soft labels."""
    network_size: tuple[int, int]


def find_files(frame_folder: Path, mask_folder: Path) -> tuple[list[Path], dict[int, Path]]:
    """Frames in order and masks by the number of their frame, checked to fit together.

    Raises:
        UserError: no frames, a mask without its frame, no mask for the first frame, or masks of several sizes.
    """
    frames = sorted(frame_folder.glob("*.jpg"))
    if not frames:
        raise UserError(f"there are no .jpg frames in {frame_folder}")
    position = {frame.stem: number for number, frame in enumerate(frames)}
    masks = {}
    for file in sorted(mask_folder.glob("*.png")):
        if file.stem not in position:
            raise UserError(f"the mask {file} has no frame {frame_folder / file.stem}.jpg")
        masks[position[file.stem]] = file
    if 0 not in masks:
        raise UserError(f"the first frame {frames[0]} has no mask {mask_folder / frames[0].stem}.png to start from")
    sizes = {number: image_size(file) for number, file in masks.items()}
    for number, size in sizes.items():
        if size != sizes[0]:
            raise UserError(
                f"the mask {masks[number]} measures {size[1]}x{size[0]}, "
                f"but {masks[0].name} of the same sequence {sizes[0][1]}x{sizes[0][0]}"
            )
    return frames, masks


class MaskTask(Task[MaskClip]):
    """A benchmark of index masks."""

    suffix = ".png"

    @abstractmethod
    def read_mask(self, path: Path) -> Mask:
        """Ids (H, W) of a mask file, void as background. Raises UserError if it holds none."""

    def make_clip(
        self, name: str, frames: list[Path], masks: dict[int, Path], network_size: tuple[int, int]
    ) -> MaskClip:
        """Read the first mask and the ids in it.

        Raises:
            UserError: it cannot be read or shows no object.
        """
        first_mask = self.read_mask(masks[0])
        ids = tuple(int(one) for one in np.union1d(first_mask, 0))
        if len(ids) == 1:
            raise UserError(f"the first mask {masks[0]} shows no object")
        return MaskClip(name, frames, masks, first_mask, ids, network_size)

    def network_size(self, clip: MaskClip) -> tuple[int, int]:
        """As chosen when the clip was opened."""
        return clip.network_size

    def first_labels(self, clip: MaskClip, grid: tuple[int, int]) -> Tensor:
        """One channel for each id of the first mask."""
        return mask_to_labels(clip.first_mask, clip.ids, clip.network_size, grid)

    def predict(self, clip: MaskClip, labels: Tensor) -> Array:
        """Index mask of the size of the first mask."""
        size = (clip.first_mask.shape[0], clip.first_mask.shape[1])
        return labels_to_mask(labels, clip.ids, clip.network_size, size)

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
        """Objects tinted in their colours; the mask is brought to the size of the frame."""
        rows = np.arange(frame.shape[0]) * prediction.shape[0] // frame.shape[0]
        columns = np.arange(frame.shape[1]) * prediction.shape[1] // frame.shape[1]
        return overlay(frame, prediction[rows[:, None], columns])
