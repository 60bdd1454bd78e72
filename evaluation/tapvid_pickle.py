"""Videos and point tracks from a TAP-Vid pickle, which is read as data: nothing in it is imported or called.

A pickle names functions that rebuild its objects. Those of NumPy are replaced by the classes below, which hold bytes
and a description of them; any other name is an error.
"""

import io
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.reading import reading
from pipeline.settings import UserError

SIDE = 256
"""Height and width to which the official evaluation resizes frames, and in whose pixels it measures."""
LARGEST_FILE = 16 * 2**30
"""Bytes of a pickle, which is in memory while it is read."""
MOST_PIXELS = 2**26
"""Of a frame that is stored as JPEG."""


@dataclass(frozen=True)
class Video:
    """A video with point tracks, in pixels of 256 x 256 frames."""

    frames: NDArray[np.uint8]
    """(T, 256, 256, 3) RGB."""
    points: NDArray[np.float64]
    """(N, T, 2): x, y from 0 (left or upper border) to 256."""
    visible: NDArray[np.bool_]
    """(N, T)."""


class _Dtype:
    """Stands for `numpy.dtype`."""

    def __init__(self, name: object = "", *_: object) -> None:
        self._name, self._order = str(name), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = str(state[1])

    def numpy(self) -> "np.dtype[Any]":
        """The type that is described, which must be of plain numbers."""
        if not re.fullmatch(r"[biuf][1248]", self._name) or self._order not in ("|", "<", ">"):
            raise ValueError(f"an array of {self._order}{self._name}, not of plain numbers")
        return np.dtype(self._order + self._name)


class _Array:
    """Stands for `numpy.ndarray`."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self._fill(content, dtype, shape, "F" if fortran else "C")

    def _fill(self, content: Any, dtype: Any, shape: Any, order: Any) -> None:  # noqa: ANN401 - as the pickle has them
        if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
            raise ValueError("an array of an unknown kind")
        # `frombuffer` checks that there are as many bytes as the shape needs
        self.value = np.frombuffer(content, dtype.numpy()).reshape(tuple(map(int, shape)), order=order)


def _from_state(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: object, dtype: object, shape: object, order: object, *_: object) -> _Array:
    array = _Array()
    array._fill(content, dtype, shape, order)
    return array


def _bytes(text: str, _encoding: object) -> bytes:
    return text.encode("latin1")  # how protocols 0 to 2 write bytes


_STANDINS: dict[str, Callable[..., object]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "numpy.core.multiarray._reconstruct": _from_state,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        found = f"{module}.{name}".replace("numpy._core", "numpy.core")  # as NumPy 2 calls it
        if found not in _STANDINS:
            raise UserError(f"it asks for {module}.{name}; only plain NumPy arrays are read, and nothing is executed")
        return _STANDINS[found]


def read_pickle(path: Path) -> dict[str, Any]:
    """The content of a pickle of dicts, lists, bytes and arrays, by the name of the video.

    Raises:
        UserError: the file is missing, too large, damaged, or holds anything else.
    """
    kind = "a pickle in the layout of TAP-Vid"
    with reading(path, kind), path.open("rb") as stream:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise UserError(f"{path} has {size} bytes; at most {LARGEST_FILE} are read")
        try:
            content = _ArrayUnpickler(stream).load()
        except UserError as error:
            raise UserError(f"{path} is not {kind}: {error}") from error
        if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
            raise TypeError("not a dict of videos by their names")
    return content


def parse_video(content: object) -> Video:
    """The video of one entry: {video: uint8 (T, H, W, 3) or T JPEGs, points: (N, T, 2) in 0 to 1, occluded: (N, T)}.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(content, dict) or not content.keys() >= {"video", "points", "occluded"}:
        raise UserError("an entry must have video, points and occluded")
    frames = _frames(content["video"])
    points, occluded = (_array(content[name], name) for name in ("points", "occluded"))
    if points.ndim != 3 or points.shape[1:] != (len(frames), 2) or occluded.shape != points.shape[:2]:
        raise UserError(
            f"{len(frames)} frames, points of shape {points.shape} and occluded of shape {occluded.shape} do not fit: "
            f"they must be (N, {len(frames)}, 2) and (N, {len(frames)})"
        )
    visible = occluded == 0
    positions = points.astype(np.float64)
    if not (np.abs(positions[visible] - 0.5) <= 1).all():  # at most half a frame outside
        raise UserError("a visible point is far outside 0 to 1: points are fractions of width and height")
    return Video(frames, positions * SIDE, visible)


def _array(value: object, name: str) -> NDArray[Any]:
    if not isinstance(value, _Array) or value.value is None:
        raise UserError(f"{name} is a {type(value).__name__}, not an array")
    return value.value


def _frames(video: object) -> NDArray[np.uint8]:
    """Frames (T, 256, 256, 3), resized by Pillow's Lanczos filter as by the official evaluation (mediapy)."""
    if not isinstance(video, list | tuple):
        array = _array(video, "video")
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
            raise UserError(f"video is {array.dtype} of shape {array.shape}; it must be uint8 (T, H, W, 3)")
        pictures = map(Image.fromarray, array)
    elif video:
        pictures = map(_decoded, video)
    else:
        raise UserError("the video has no frames")
    size = (SIDE, SIDE)
    return np.stack([np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) for picture in pictures])


def _decoded(frame: object) -> Image.Image:
    if not isinstance(frame, bytes):
        raise UserError(f"a frame is a {type(frame).__name__}; expected are JPEG bytes, or one array of all frames")
    with reading("a frame of the video", "a JPEG"), Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
        if image.width * image.height > MOST_PIXELS:
            raise UserError(f"a frame has {image.width} x {image.height} pixels; at most {MOST_PIXELS} are decoded")
        return image.convert("RGB")
