"""Frames and index masks from disk, and frames as the network wants them."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.reader.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError

VOID = 255
"""Mask value of pixels without a decided label."""

UNREADABLE = (Exception,)
"""What Pillow raises for a file that is missing, broken or too large: its decoders use every kind."""


def read_frame(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to RGB (H, W, 3).

    Raises:
        UserError: the file is missing or does not decode completely.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except UNREADABLE as error:
        raise UserError(f"cannot read the frame {path}: {error}") from error


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Decode a palette or 8-bit grey PNG to its values (H, W).

    Raises:
        UserError: the file is missing, broken, or of a kind that holds no ids (colour, 16 bit).
    """
    try:
        with Image.open(path) as image:
            mode, mask = image.mode, np.array(image)
    except UNREADABLE as error:
        raise UserError(f"cannot read the mask {path}: {error}") from error
    if mode not in ("P", "L"):
        raise UserError(f"the mask {path} has the mode {mode}; it must be a palette or 8-bit grey PNG of object ids")
    return mask


def read_index_mask(path: Path) -> NDArray[np.uint8]:
    """Object ids (H, W) of a DAVIS mask, in which void pixels count as background.

    Raises:
        UserError: as for `read_mask`.
    """
    mask = read_mask(path)
    mask[mask == VOID] = 0
    return mask


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header.

    Raises:
        UserError: the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise UserError(f"cannot read the image {path}: {error}") from error


def network_input(frame: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Stretch an RGB frame (H, W, 3) to `size` and normalise it: float32 (3, height, width).

    Bilinear without antialiasing, on values 0..1 without rounding, then ImageNet mean and standard deviation.
    """
    image = torch.tensor(frame).permute(2, 0, 1)[None].float() / 255
    resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False)[0]
    return (resized - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
