"""Sandwich sampling: which frames of a clip are the current, the past and the future one."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from pipeline.settings import Settings

Direction = Literal["past", "future"]


class SandwichSettings(Settings):
    """Ranges as fractions of the clip's frame count T (paper, section 4.1 and table 3c)."""

    current: tuple[float, float] = (0.3, 0.7)
    """The current frame is drawn from [floor(a T), floor(b T) - 1]."""
    past_offset: tuple[float, float] = (0.15, 0.25)
    """A past frame is [floor(a T), floor(b T)] frames before the current one."""
    future_offset: tuple[float, float] = (0.15, 0.25)
    """A future frame is [floor(a T), floor(b T)] frames after the current one."""
    auxiliary: tuple[Direction, ...] = ("past", "future")
    """Auxiliary frames, each with its own offset; `past,past` gives two past frames, an empty list none."""

    @model_validator(mode="after")
    def _frames_are_in_the_clip(self) -> "SandwichSettings":
        for name, (low, high) in (
            ("current", self.current),
            ("past_offset", self.past_offset),
            ("future_offset", self.future_offset),
        ):
            if not 0 <= low < high <= 1:
                raise ValueError(f"{name} = {low}, {high} must be two rising fractions from 0 to 1")
        if "past" in self.auxiliary and self.past_offset[1] > self.current[0]:
            raise ValueError(
                f"past_offset reaches {self.past_offset[1]} before current, which begins at {self.current[0]}"
            )
        if "future" in self.auxiliary and self.current[1] + self.future_offset[1] > 1:
            raise ValueError(f"future_offset reaches beyond the clip: {self.current[1]} + {self.future_offset[1]} > 1")
        return self


class FrameRanges(NamedTuple):
    """Inclusive integer ranges, (n,) each, for n clips; `fallback` is True where they are too narrow to draw from."""

    current: tuple[NDArray[np.int64], NDArray[np.int64]]
    offsets: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
    fallback: NDArray[np.bool_]


def _floors(bounds: tuple[float, float], frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    low, high = (np.floor(bound * frames).astype(np.int64) for bound in bounds)
    return low, high


def frame_ranges(settings: SandwichSettings, frames: NDArray[np.int64]) -> FrameRanges:
    """Ranges for clips of `frames` frames; `offsets` has one entry for each auxiliary frame."""
    low, end = _floors(settings.current, frames)
    offset = {"past": settings.past_offset, "future": settings.future_offset}
    offsets = tuple(_floors(offset[direction], frames) for direction in settings.auxiliary)
    narrow = [start >= stop for start, stop in offsets]
    return FrameRanges((low, end - 1), offsets, np.any([low > end - 1, *narrow], axis=0))


def draws_needed(settings: SandwichSettings) -> int:
    """Uniform numbers that `draw_frames` takes for each clip."""
    return 1 + len(settings.auxiliary)


def draw_frames(
    settings: SandwichSettings, frames: NDArray[np.int64], uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Frame numbers (n, 1 + auxiliary): the current frame, then the auxiliary ones, for n clips.

    `uniform` is (n, draws_needed). Where an offset has fewer than two possible values, or the current frame none
    (T = 1, 2, 3, 7 at the default ranges), all are the same frame, drawn from the whole clip, as in the released code.
    """
    ranges = frame_ranges(settings, frames)

    def pick(low: NDArray[np.int64], high: NDArray[np.int64], column: int) -> NDArray[np.int64]:
        return low + (uniform[:, column] * (high - low + 1)).astype(np.int64)

    current = pick(*ranges.current, 0)
    columns = [current]
    for column, (direction, (low, high)) in enumerate(zip(settings.auxiliary, ranges.offsets, strict=True), start=1):
        offset = pick(low, high, column)
        columns.append(current - offset if direction == "past" else current + offset)
    anywhere = pick(np.zeros_like(frames), frames - 1, 0)
    return np.where(ranges.fallback[:, None], anywhere[:, None], np.stack(columns, axis=1))
