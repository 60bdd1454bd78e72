"""What a dataset records of how it was made: the settings of its frames, images and triplets, and why inputs fail."""

import re
from enum import Enum
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.jpeg import MAX_JPEG_SIDE
from pipeline.settings import Settings

_MAX_FRAMES = 1_000_000
_MAX_PIXELS = 2**31 - 1
"""Largest value that ffmpeg accepts."""
_MAX_DEADLINE_S = 7 * 24 * 3600
"""A week; a much longer wait overflows the milliseconds of `poll`."""
_MOST_OVERLAPPING = 200
"""Clips of one file that share a moment; ffmpeg's expression of the wanted times has a term for each."""
_PILLOWS_LIMIT = 178_956_970
"""Largest number of pixels that Pillow opens."""


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return pattern


Keys = Literal["auto", "stem", "path"]
"""How samples are named after the paths of their inputs (see pipeline/shards/keys.py)."""

NamePattern = Annotated[str, AfterValidator(_regular_expression)]
"""A regular expression for whole file names."""


class FrameSettings(Settings):
    """How frames are taken from clips."""

    fps: float = Field(2.0, ge=0.001, le=1000)
    """Frames per second; frame k is the picture that is displayed k/fps seconds after the first."""
    timing: Literal["exact", "reference"] = "exact"
    """`reference` decodes only reference pictures and takes the nearest one: faster, but less regular in time, and the
    last frame may be missing."""
    short_side: int = Field(256, ge=16, le=MAX_JPEG_SIDE)
    """Shorter side of a frame in pixels; smaller clips are not enlarged."""
    quality: int = Field(2, ge=1, le=31)
    """ffmpeg's JPEG quantizer scale: 1 best, 31 worst; 2 is about Pillow quality 95."""
    min_frames: int = Field(8, ge=1, le=_MAX_FRAMES)
    """Clips with fewer frames are rejected; with fewer than 8 the sampling ranges of the method are empty."""
    max_frames: int = Field(2000, ge=1, le=_MAX_FRAMES)
    """Clips with more frames are rejected."""
    max_pixels: int = Field(40_000_000, ge=1, le=_MAX_PIXELS)
    """Clips whose pictures have more pixels are rejected; 8K has 33 million."""
    deadline_s: float = Field(600.0, gt=0, le=_MAX_DEADLINE_S)
    """A clip whose decoding takes longer is rejected; of a file that is cut, each minute may take so long."""
    pattern: NamePattern | None = None
    r"""With media = frames: regular expression for the names of the frames, such as 'img_\d+\.jpg', if the folders also
    hold other images."""

    @model_validator(mode="after")
    def _some_number_of_frames_is_allowed(self) -> "FrameSettings":
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames = {self.min_frames} is more than max_frames = {self.max_frames}")
        return self


_MAX_SECONDS = 1_000_000.0


class ClipSettings(Settings):
    """How long videos are cut into clips, which become the samples; by default a file is one clip."""

    length: float | None = Field(None, ge=0.001, le=_MAX_SECONDS)
    """Cut files into clips of so many seconds; times are rounded to milliseconds."""
    stride: float | None = Field(None, ge=0.001, le=_MAX_SECONDS)
    """Seconds from the start of one clip to the start of the next; default: `length`."""
    scenes: bool = False
    """Cut files at scene changes, so that no clip has pictures of two scenes; with `length`, scenes are cut further."""
    scene_threshold: float = Field(10.0, gt=0, le=100)
    """Score of ffmpeg's scdet above which a picture begins a scene, from 0 to 100; lower values cut more often."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_stride(cls, values: Any) -> Any:  # noqa: ANN401
        """One recorded form of a length without a stride, and of the same stride."""
        if isinstance(values, dict) and values.get("stride") is None:
            return {**values, "stride": values.get("length")}
        return values

    @model_validator(mode="after")
    def _options_fit(self) -> "ClipSettings":
        if self.stride is not None and self.length is None:
            raise ValueError("clips.stride needs clips.length")
        if self.stride and self.length and self.length > _MOST_OVERLAPPING * self.stride:
            raise ValueError(
                f"clips.stride = {self.stride:g} is too short for clips.length = {self.length:g}: at most "
                f"{_MOST_OVERLAPPING} clips may overlap, so give at least {self.length / _MOST_OVERLAPPING:g}"
            )
        if not self.scenes and self.scene_threshold != type(self).model_fields["scene_threshold"].default:
            raise ValueError("clips.scene_threshold needs clips.scenes true")
        return self

    @property
    def cut_files(self) -> bool:
        """Whether files are cut."""
        return self.length is not None or self.scenes

    @property
    def stride_ms(self) -> int:
        """Milliseconds from the start of one clip to the start of the next; 0 without windows."""
        return round(1000 * (self.stride or 0))

    def stride_error(self, fps: float, parts: int = 1) -> str:
        """Why clips cannot begin with a frame at `fps`, or with one of `parts` parts of a frame; empty if they can."""
        frames = Fraction(self.stride_ms, 1000) * Fraction(fps).limit_denominator(100_000)
        if frames.denominator <= parts:
            return ""
        seconds = self.stride_ms / 1000
        allowed = "whole frames" if parts == 1 else f"frames or a multiple of 1/2, 1/3, ... or 1/{parts} of a frame"
        return f"clips.stride must be {allowed}; {seconds:g} s are {float(frames):g} frames at frames.fps = {fps:g}"


class ImageSettings(Settings):
    """How still images are converted."""

    short_side: int | None = Field(None, ge=16, le=MAX_JPEG_SIDE)
    """Shrink larger images to this shorter side in pixels; by default JPEGs are kept byte for byte."""
    quality: int = Field(95, ge=1, le=100)
    """Pillow's JPEG quality for re-encoded images."""
    max_pixels: int = Field(100_000_000, ge=1, le=_PILLOWS_LIMIT)
    """Images with more pixels are rejected without decoding."""


class TripletSettings(Settings):
    """Settings of the layout `triplets`."""

    per_clip: int = Field(4, ge=1, le=100)
    """Triplets per clip."""
    unit: Literal["fraction", "seconds"] = Field("fraction", exclude_if=lambda unit: unit == "fraction")
    """Unit of the offsets of past and future: `fraction` of the clip, with the ranges of the paper, or `seconds`: 1.5
    to 2.5 in clips of any length."""


class Reason(str, Enum):
    """Why an input was rejected, as written to `rejects.parquet`."""

    UNREADABLE = "unreadable"
    """The file could not be opened or read."""
    NOT_MEDIA = "not_media"
    """Not a picture or video of a supported format: a web page, a playlist, a drawing, only audio."""
    DECODE_ERROR = "decode_error"
    """ffmpeg or Pillow could not decode it to its end."""
    TIMEOUT = "timeout"
    """Decoding exceeded its deadline."""
    MIXED_NAMES = "mixed_names"
    """By their names, a folder of frames holds images of several kinds, or two with the same number."""
    TOO_SHORT = "too_short"
    """Fewer frames than `min_frames`."""
    TOO_LONG = "too_long"
    """More frames than `max_frames`."""
    TOO_SMALL = "too_small"
    """A side of the picture has fewer than 16 pixels."""
    TOO_LARGE = "too_large"
    """More pixels, bytes or JPEG scans than allowed."""
    DUPLICATE_KEY = "duplicate_key"
    """Another input has the same key; the first in path order is kept."""
