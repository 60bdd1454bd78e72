"""Sandwich sampling: which frames of a clip are the current, the past and the future one."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.settings import Settings

Direction = Literal["past", "future"]
Unit = Literal["fraction", "seconds"]
Range = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Inclusive bounds (n,) for n clips."""
IN_SECONDS = {"current": (0.0, 1.0), "past_offset": (1.5, 2.5), "future_offset": (1.5, 2.5)}
"""Defaults with unit = seconds: the paper's offsets in a clip of 10 seconds, in clips of any length."""
MAX_OFFSET_S = 86_400
_GRID_TOLERANCE = 1e-6
"""Fraction of a frame by which rounding may move a bound of a range in seconds."""


class SandwichSettings(Settings):
    """Ranges from which the frames of a triplet are drawn (paper, section 4.1 and table 3c)."""

    unit: Unit = Field("fraction", exclude_if=lambda unit: unit == "fraction")  # as in the runs before there were units
    """Unit of the offsets: `fraction` of the clip's frame count T, as in the paper; or `seconds`, for clips of any
    length: the current frame is then any that has a past and a future frame within the offsets."""
    current: tuple[float, float] = (0.3, 0.7)
    """The current frame is drawn from [floor(a T), floor(b T) - 1]. Default with unit = seconds: 0, 1."""
    past_offset: tuple[float, float] = (0.15, 0.25)
    """A past frame is [floor(a T), floor(b T)] frames, or a to b seconds, before the current one. Default with unit =
    seconds: 1.5, 2.5."""
    future_offset: tuple[float, float] = (0.15, 0.25)
    """A future frame is [floor(a T), floor(b T)] frames, or a to b seconds, after the current one. Default with unit =
    seconds: 1.5, 2.5."""
    auxiliary: tuple[Direction, ...] = ("past", "future")
    """Auxiliary frames, each with its own offset; `past,past` gives two past frames, an empty list none."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_unit(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("unit") == "seconds":
            return IN_SECONDS | values
        return values

    @model_validator(mode="after")
    def _frames_are_in_the_clip(self) -> "SandwichSettings":
        offsets = {"past_offset": self.past_offset, "future_offset": self.future_offset}
        fractions = {"current": self.current} | (offsets if self.unit == "fraction" else {})
        for name, (low, high) in fractions.items():
            if not 0 <= low < high <= 1:
                seconds = " (or seconds, with unit = seconds)" if name in offsets else ""
                raise ValueError(f"{name} = {low}, {high} must be two rising fractions from 0 to 1{seconds}")
        if self.unit == "seconds":
            for name, (low, high) in offsets.items():
                if not 0 <= low <= high <= MAX_OFFSET_S:
                    raise ValueError(
                        f"{name} = {low}, {high} must be two rising numbers of seconds from 0 to {MAX_OFFSET_S}, "
                        "with unit = seconds"
                    )
            return self
        if "past" in self.auxiliary and self.past_offset[1] > self.current[0]:
            raise ValueError(
                f"past_offset reaches {self.past_offset[1]} before current, which begins at {self.current[0]}, "
                "with unit = fraction"
            )
        if "future" in self.auxiliary and self.current[1] + self.future_offset[1] > 1:
            raise ValueError(
                f"future_offset reaches beyond the clip: {self.current[1]} + {self.future_offset[1]} > 1, "
                "with unit = fraction"
            )
        return self


class FrameRanges(NamedTuple):
    """Inclusive integer ranges, (n,) each, for n clips; `fallback` is True where they are too narrow to draw from."""

    current: Range
    offsets: tuple[Range, ...]
    """One for each auxiliary frame. An offset is also limited by the frames on that side of the current one."""
    fallback: NDArray[np.bool_]


def _floors(bounds: tuple[float, float], frames: NDArray[np.int64]) -> Range:
    low, high = (np.floor(bound * frames).astype(np.int64) for bound in bounds)
    return low, high


def _frames_within(bounds_s: tuple[float, float], frames: NDArray[np.int64], duration_s: NDArray[np.float64]) -> Range:
    """The offsets in frames that lie within `bounds_s`; an empty range where the frames are too far apart for one."""
    low, high = (bound * frames / duration_s for bound in bounds_s)
    first, last = np.ceil(low - _GRID_TOLERANCE), np.floor(high + _GRID_TOLERANCE)
    return first.astype(np.int64), last.astype(np.int64)


def frame_ranges(
    settings: SandwichSettings, frames: NDArray[np.int64], duration_s: NDArray[np.float64] | None = None
) -> FrameRanges:
    """Ranges for n clips of `frames` (n,) frames in `duration_s` (n,) seconds, which only unit = seconds needs.

    In seconds, a clip is too short if none of its frames within `current` has, for each auxiliary frame, another one
    within the offsets.
    """
    first, end = _floors(settings.current, frames)
    last = end - 1
    offset = {"past": settings.past_offset, "future": settings.future_offset}
    if settings.unit == "fraction":
        offsets = tuple(_floors(offset[direction], frames) for direction in settings.auxiliary)
        narrow = [low >= high for low, high in offsets]
    else:
        assert duration_s is not None, "offsets in seconds need durations"
        offsets = tuple(_frames_within(offset[direction], frames, duration_s) for direction in settings.auxiliary)
        narrow = [low > high for low, high in offsets]
        for direction, (low, _) in zip(settings.auxiliary, offsets, strict=True):
            if direction == "past":
                first = np.maximum(first, low)
            else:
                last = np.minimum(last, frames - 1 - low)
    return FrameRanges((first, last), offsets, np.any([first > last, *narrow], axis=0))


def draws_needed(settings: SandwichSettings) -> int:
    """Uniform numbers that `draw_frames` takes for each clip."""
    return 1 + len(settings.auxiliary)


def draw_frames(
    settings: SandwichSettings,
    frames: NDArray[np.int64],
    uniform: NDArray[np.float64],
    duration_s: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Frame numbers (n, 1 + auxiliary): the current frame, then the auxiliary ones, for n clips.

    `uniform` is (n, draws_needed); `duration_s` (n,) is needed for unit = seconds. The current frame is uniform in its
    range, and an auxiliary frame among those of the clip that its offsets allow. Where there is none, or with unit =
    fraction an offset has fewer than two possible values (T = 1, 2, 3, 7 at the default ranges), all are the same
    frame, drawn from the whole clip, as in the released code.
    """
    ranges = frame_ranges(settings, frames, duration_s)

    def pick(low: NDArray[np.int64], high: NDArray[np.int64], column: int) -> NDArray[np.int64]:
        return low + (uniform[:, column] * (high - low + 1)).astype(np.int64)

    current = pick(*ranges.current, 0)
    columns = [current]
    for column, (direction, (low, high)) in enumerate(zip(settings.auxiliary, ranges.offsets, strict=True), start=1):
        room = current if direction == "past" else frames - 1 - current
        offset = pick(low, np.minimum(high, room), column)
        columns.append(current - offset if direction == "past" else current + offset)
    anywhere = pick(np.zeros_like(frames), frames - 1, 0)
    return np.where(ranges.fallback[:, None], anywhere[:, None], np.stack(columns, axis=1))
