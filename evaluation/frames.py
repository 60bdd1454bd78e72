"""Frames and index masks from disk, and network inputs from frames."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image
from pydantic import BeforeValidator, Field
from torch import Tensor

from pipeline.jpeg import TURNS
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError

VOID = 255
"""Mask value of pixels without a decided label."""

UNREADABLE = (Exception,)
"""What Pillow raises for a missing, broken or too large file: its decoders raise errors of many kinds."""


def _two_numbers(size: object) -> object:
    if isinstance(size, list | tuple) and len(size) != 2:
        raise ValueError("must be a height and a width, as in 480,880")
    return size


Side = Annotated[int, Field(ge=1, le=2**14)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_two_numbers)]
"""Height and width in pixels; also the type of options."""

Resampling = Literal["t-core", "dino", "dinov3"]
"""Whose way of resizing frames and masks: see `network_input` and `evaluation.labels`."""

_MOST_KINDS = 3


@dataclass(frozen=True)
class Frame:
    """The file of a frame, its size and its orientation."""

    path: Path
    size: Size
    """Height and width after the orientation is undone."""
    orientation: int
    """EXIF orientation to undo when the file is decoded; 1 to keep the pixels as they are."""

    @property
    def name(self) -> str:
        """File name without its extension."""
        return self.path.stem

    def read(self) -> NDArray[np.uint8]:
        """RGB pixels (H, W, 3); raises as `read_frame`."""
        return read_frame(self.path, self.orientation)


def natural_key(name: str) -> tuple[str | int, ...]:
    """Sort key of a name that compares numbers by value: `frame2` comes before `frame10`.

    Text and numbers alternate, text first: `("frame", 10, "")`.
    """
    parts = re.split("([0-9]+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts))


def list_pictures(folder: Path, *suffixes: str) -> list[Path]:
    """Files of a folder with one of these extensions, in natural order of their names, without hidden files.

    Raises:
        UserError: two files have the same name or number.
    """
    files = [path for path in folder.glob("*") if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    files.sort(key=lambda path: (natural_key(path.stem), path.name))
    for first, second in pairwise(files):
        if natural_key(first.stem) == natural_key(second.stem):
            raise UserError(f"{first} and {second.name} have the same frame number; remove one of them")
    return files


def numbering_notes(names: Sequence[str]) -> list[str]:
    """Notes on irregular names (without extensions) of a clip's frames in natural order."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub("[0-9]+", "0", name), []).append(name)
    if len(kinds) > 1:
        counts = ", ".join(f"{len(some)} like {some[0]}" for some in [*kinds.values()][:_MOST_KINDS])
        more = ", ..." if len(kinds) > _MOST_KINDS else ""
        return [f"kinds of frame names: {len(kinds)} ({counts}{more}); all are taken, in natural order of the names"]
    fields = [set(field) for field in zip(*(natural_key(name)[1::2] for name in names), strict=True)]
    varying = [index for index, field in enumerate(fields) if len(field) > 1]
    if len(varying) != 1:
        return []
    numbers = [int(natural_key(name)[1::2][varying[0]]) for name in names]
    steps = [after - before for before, after in pairwise(numbers)]
    usual = min(steps)
    gaps = [index for index, step in enumerate(steps) if step != usual]
    if not gaps:
        return []
    between = f"{names[gaps[0]]} and {names[gaps[0] + 1]}"
    return [f"gaps in the frame numbers: {len(gaps)} (first between {between}); taken as if no time had passed there"]


def _read_header(path: Path) -> tuple[Size, int]:
    """Size of the stored pixels, and EXIF orientation (1 to 8; 1 if there is none)."""
    try:
        with Image.open(path) as image:
            size = image.height, image.width
            try:  # not image.getexif(), which decodes a PNG completely
                orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
            except UNREADABLE:  # a broken EXIF block does not make the image unreadable
                orientation = 1
    except UNREADABLE as error:
        raise UserError(f"cannot read the frame {path}: {error}") from error
    return size, orientation if orientation in TURNS else 1


def open_frames(paths: Sequence[Path], misfit: Callable[[Size], float]) -> tuple[list[Frame], list[str]]:
    """The frames of a clip, and notes on irregularities in their names and headers.

    Frames with an EXIF orientation are turned upright, as viewers and annotation tools show them, unless the
    annotations fit the stored pixels better.

    Args:
        paths: one or more files in order.
        misfit: how badly the annotations fit frames of a given size; 0 is a perfect fit.

    Raises:
        UserError: a file is missing or is not an image.
    """
    headers = [_read_header(path) for path in paths]
    upright = [size[::-1] if orientation >= 5 else size for size, orientation in headers]
    turn = sum(map(misfit, upright)) <= sum(misfit(size) for size, _ in headers)
    frames = [
        Frame(path, after, orientation) if turn else Frame(path, before, 1)
        for path, after, (before, orientation) in zip(paths, upright, headers, strict=True)
    ]
    notes = numbering_notes([path.stem for path in paths])
    if turned := [path.stem for path, (_, orientation) in zip(paths, headers, strict=True) if orientation != 1]:
        done = "turned upright" if turn else "not turned, because the annotations fit the pixels as they are stored"
        notes.append(f"frames with an EXIF orientation: {len(turned)} (first {turned[0]}); {done}")
    if resized := [frame for frame in frames if frame.size != frames[0].size]:
        notes.append(
            f"frames of another size than the first one's {shown_size(frames[0].size)}: {len(resized)} "
            f"(first {resized[0].path.stem}, {shown_size(resized[0].size)}); stretched to the same shape"
        )
    return frames, notes


def shown_size(size: Size) -> str:
    """Width x height, for messages."""
    return f"{size[1]}x{size[0]}"


def read_frame(path: Path, orientation: int = 1) -> NDArray[np.uint8]:
    """Decode an image file to RGB (H, W, 3) and undo the given EXIF orientation; that of the file is ignored.

    Raises:
        UserError: the file is missing or does not decode completely.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except UNREADABLE as error:
        raise UserError(f"cannot read the frame {path}: {error}") from error
    return np.asarray(picture.transpose(TURNS[orientation]) if orientation != 1 else picture)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Decode a palette or 8-bit gray PNG to its values (H, W).

    Raises:
        UserError: the file is missing, broken, or in a mode without ids (color, 16 bit).
    """
    try:
        with Image.open(path) as image:
            mode, mask = image.mode, np.array(image)
    except UNREADABLE as error:
        raise UserError(f"cannot read the mask {path}: {error}") from error
    if mode not in ("P", "L"):
        raise UserError(f"the mask {path} has the mode {mode}; it must be a palette or 8-bit gray PNG of object ids")
    return mask


def read_index_mask(path: Path) -> NDArray[np.uint8]:
    """Object ids (H, W) of a DAVIS mask, with void as background.

    Raises:
        UserError: as for `read_mask`.
    """
    mask = read_mask(path)
    mask[mask == VOID] = 0
    return mask


def image_size(path: Path) -> Size:
    """(height, width) of an image file, from its header.

    Raises:
        UserError: the file is missing or is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise UserError(f"cannot read the image {path}: {error}") from error


def network_input(frame: NDArray[np.uint8], size: Size, resampling: Resampling = "t-core") -> Tensor:
    """Resize an RGB frame (H, W, 3) to `size` and normalize it: float32 (3, height, width).

    t-core: bilinear without antialiasing, without rounding. dino: the same, rounded to 8 bits as by OpenCV. dinov3:
    Pillow's bicubic, antialiased and rounded to 8 bits. Then ImageNet mean and standard deviation.
    """
    if resampling == "dinov3":
        frame = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))
    image = torch.tensor(frame).permute(2, 0, 1)[None].float()
    if resampling == "dinov3":
        resized = image[0] / 255
    elif resampling == "dino":
        resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False)[0].round() / 255
    else:
        resized = F.interpolate(image / 255, size=size, mode="bilinear", align_corners=False)[0]
    return (resized - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
