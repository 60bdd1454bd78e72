"""Pixels of views by PyTorch on one CPU core: what the DALI graph does, in less than half of its time.

A view is made in memory that its thread keeps, step by step, and is copied into the batch once it is finished. So its
steps stay in the core's cache, and their results do not depend on where in the batch the view is.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from simplejpeg import decode_jpeg
from torch import Tensor

from pipeline.jpeg import check_jpeg
from pipeline.reader.feed import Feed
from pipeline.sampling.color import BLUR_TAPS
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD

_MEAN, _STD = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
_SCALE = (1 / (255 * _STD))[:, None]
_OFFSET = (-_MEAN / _STD)[:, None]
"""A pixel (3, 1) from 0 to 255 is normalized to `_SCALE * pixel + _OFFSET`."""
_RANGES = list(zip(_OFFSET[:, 0].tolist(), ((1 - _MEAN) / _STD).tolist(), strict=True))
"""Normalized 0 and 255 of each channel."""
_NEGATIVE = ((1 - 2 * _MEAN) / _STD)[:, None, None]
"""Normalized 0 plus normalized 255 (3, 1, 1): a negative is this less the picture."""
_BORDER = BLUR_TAPS // 2
_SMALLEST_WEIGHT = 1e-5
"""Smaller weights of a blur change no pixel by a hundredth of a level, and the smallest are denormal, which is slow."""
_LONGEST_BLOCK = 32


class ViewInputs(NamedTuple):
    """The inputs of one view, see `pipeline.reader.feed`; the color map gives normalized pixels."""

    needed: bool
    frame: int
    start: Sequence[int]
    shape: Sequence[int]
    colored: bool
    blurred: bool
    solarized: bool
    mirror: bool
    matrix: Tensor
    """(3, 3)"""
    weights: Tensor
    """(1, 3)"""
    kernel: Tensor
    """(BLUR_TAPS,)"""


_PLAIN = ("needed", "frame", "start", "shape", "colored", "blurred", "solarized", "mirror")


def clip_inputs(feed: Feed, clip: int, clips: int) -> Iterator[ViewInputs]:
    """The inputs of all views of a clip."""
    own = slice(clip, None, clips)
    plain = [feed[name][own].tolist() for name in _PLAIN]
    matrix = _SCALE * torch.from_numpy(feed["matrix"][own])
    weights = _SCALE * torch.from_numpy(feed["weights"][own, None])
    kernel = torch.from_numpy(feed["kernel"][own, 0])
    kernel = kernel.where(kernel >= _SMALLEST_WEIGHT, 0)
    return map(ViewInputs, *plain, matrix.unbind(), weights.unbind(), kernel.unbind())


def decode(jpeg: NDArray[np.uint8]) -> Tensor:
    """Pixels (H, W, 3) uint8 of a JPEG, those of DALI's decoder for the CPU. EXIF is not applied.

    Raises:
        ValueError: it does not decode.
        JpegError: it is not complete.
    """
    try:
        pixels = decode_jpeg(jpeg, "RGB")
    except ValueError:  # or only a warning, such as of stray bytes, which other decoders do not heed
        check_jpeg(jpeg.tobytes())
        pixels = decode_jpeg(jpeg, "RGB", strict=False)
    return torch.from_numpy(pixels)


def crop_resize(image: Tensor, start: Sequence[int], shape: Sequence[int], size: int) -> Tensor:
    """Crop (3, size, size) uint8 of an image (H, W, 3), resized as Pillow does: the filter sees only the crop.

    Raises:
        ValueError: the crop is not within the image.
    """
    (top, left), (height, width) = start, shape
    crop = image[top : top + height, left : left + width]
    if crop.shape[:2] != (height, width):
        raise ValueError(f"a crop ends at row {top + height}, column {left + width} of {tuple(image.shape[:2])}")
    resized = F.interpolate(crop.permute(2, 0, 1)[None], size=(size, size), mode="bicubic", antialias=True)
    return resized[0]


@functools.cache
def _block_length(size: int) -> int:
    """The largest divisor of `size` up to `_LONGEST_BLOCK`."""
    return max(length for length in range(1, _LONGEST_BLOCK + 1) if size % length == 0)


class ViewMaker(threading.local):
    """Makes views in memory that each thread has for itself; fresh memory would cost as much as the colors."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def _buffer(self, name: str, *shape: int) -> Tensor:
        key = name, shape
        if key not in self._memory:
            self._memory[key] = torch.zeros(shape, dtype=torch.float32)
        return self._memory[key]

    def view(self, crop: Tensor, inputs: ViewInputs) -> Tensor:
        """The view (3, size, size) of a resized crop, in memory that the next view takes.

        See `pipeline.sampling.color` for the colors. All steps after the color map work on normalized pixels.
        """
        size = crop.shape[-1]
        pixels, view = (self._buffer(name, 3, size * size) for name in ("pixels", "view"))
        pixels.view(3, size, size).copy_(crop.flip(-1) if inputs.mirror else crop)
        shift = torch.addmm(_OFFSET, inputs.weights, pixels.mean(dim=1, keepdim=True)) if inputs.colored else _OFFSET
        torch.addmm(shift, inputs.matrix, pixels, out=view)
        if inputs.colored:
            for channel, (black, white) in zip(view.unbind(), _RANGES, strict=True):
                channel.clamp_(black, white)
        view = view.view(3, size, size)
        if inputs.blurred:
            view = self._blur(view, inputs.kernel)
        if inputs.solarized:
            torch.minimum(view, _NEGATIVE - view, out=view)  # only bright pixels are darker in the negative
        return view

    def _blur(self, view: Tensor, kernel: Tensor) -> Tensor:
        """A view, filtered by `kernel` along both sides and reflected at its borders without repeating them.

        A filtered block of a row or column is a banded matrix times the pixels around it: of all ways in PyTorch, the
        fastest by a factor of three.
        """
        size = view.shape[-1]
        length, padded = _block_length(size), size + 2 * _BORDER
        blocks, window = size // length, length + 2 * _BORDER
        band, transposed = self._buffer("band", length, window), self._buffer("transposed band", window, length)
        band.as_strided((length, BLUR_TAPS), (window + 1, 1)).copy_(kernel)
        transposed.as_strided((length, BLUR_TAPS), (length + 1, length)).copy_(kernel)
        rows, result = self._buffer("rows", 3 * padded, size), self._buffer("blurred", 3, size, size)
        source = F.pad(view, (_BORDER,) * 4, mode="reflect").view(3 * padded, padded)
        torch.bmm(
            source.unfold(1, window, length).transpose(0, 1),
            transposed.expand(blocks, -1, -1),
            out=rows.view(-1, blocks, length).transpose(0, 1),
        )
        for plane, target in zip(rows.view(3, padded, size).unbind(), result.unbind(), strict=True):
            torch.bmm(
                band.expand(blocks, -1, -1),
                plane.unfold(0, window, length).transpose(1, 2),
                out=target.view(blocks, length, size),
            )
        return result

    @torch.inference_mode()
    def clip(self, feed: Feed, clip: int, batch: Sequence[Tensor]) -> None:
        """Make the views of a clip: zeros where they are not needed.

        `batch` has tensors (views, clips, 3, size, size), whose views follow one another in the order of the feed.

        Raises:
            ValueError: a frame does not decode, or is smaller than the index says.
            JpegError: a frame is not complete.
        """
        images: dict[int, Tensor] = {}
        crops: dict[tuple[int, ...], Tensor] = {}  # both views of an auxiliary frame may show all of it
        views = [view for part in batch for view in part[:, clip].unbind()]
        for view, inputs in zip(views, clip_inputs(feed, clip, batch[0].shape[1]), strict=True):
            if not inputs.needed:
                view.zero_()
                continue
            if inputs.frame not in images:
                images[inputs.frame] = decode(feed["encoded"][inputs.frame])
            key = inputs.frame, *inputs.start, *inputs.shape, view.shape[-1]
            if key not in crops:
                crops[key] = crop_resize(images[inputs.frame], inputs.start, inputs.shape, view.shape[-1])
            view.copy_(self.view(crops[key], inputs))
