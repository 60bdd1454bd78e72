"""Compare the statement of a container with the file and its pictures."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

TOLERANCE_S = 0.5
"""Seconds by which a clip may be shorter than stated: muxers round, and omit the duration of the last picture."""
TOLERANCE_SHARE = 0.02
"""The same as a share of the stated duration."""
TOLERANCE_PICTURES = 2
"""The same in pictures: decoders drop pictures that refer to pictures before the clip."""


class Extent(NamedTuple):
    """A stated duration and how much of it the file contains, in seconds."""

    stated_s: float
    present_s: float


@dataclass(frozen=True)
class Statement:
    """Sizes and durations that a container states; defaults stand for what it does not state."""

    end: int | None = None
    """End of its media data, in bytes from the start of the file."""
    extents: list[Extent] = field(default_factory=list)
    """Durations that can be compared without decoding, as both values are in headers."""
    hole_s: tuple[float, float] | None = None
    """Start and end of a missing part inside the clip, in seconds."""
    pictures_s: dict[int, float] = field(default_factory=dict)
    """Seconds from the first picture to the last of each video track, by track ID, or by stream number without IDs."""


def _shorter(extent: Extent, spacing_s: float = 0.0) -> bool:
    tolerance_s = max(TOLERANCE_S, TOLERANCE_SHARE * extent.stated_s, TOLERANCE_PICTURES * spacing_s)
    return extent.present_s < extent.stated_s - tolerance_s


def missing_part(statement: Statement, size: int) -> str:
    """What is missing from a file of `size` bytes, as a sentence; empty if nothing seems to be."""
    if statement.end is not None and size < statement.end:
        return (
            f"the file is cut off: its last {statement.end - size} bytes are missing; it states {statement.end} bytes "
            f"and has {size}"
        )
    if statement.hole_s is not None:
        start_s, end_s = statement.hole_s
        return f"the file has a hole: it ends at {start_s:.3f} s and goes on at {end_s:.3f} s"
    for extent in statement.extents:
        if _shorter(extent):
            return f"the file is cut off: it states {extent.stated_s:.3f} s and holds {extent.present_s:.3f} s"
    return ""


def missing_pictures(stated_s: float, times_s: np.ndarray) -> str:
    """Whether the decoded pictures end too early, as a sentence; empty if not.

    Args:
        stated_s: stated seconds from the first picture to the last of the decoded track.
        times_s: (pictures,) presentation times from the start of the file.
    """
    ordered = np.unique(times_s)
    spacing_s = float(np.median(np.diff(ordered))) if len(ordered) > 1 else 0.0
    reached_s = float(max(ordered[-1], ordered[-1] - ordered[0]))  # pictures missing at the start do not count
    return ends_early(stated_s, reached_s, spacing_s)


def ends_early(stated_s: float, reached_s: float, spacing_s: float) -> str:
    """Whether a last picture at `reached_s` is too early, as a sentence; empty if not.

    Args:
        stated_s: stated seconds from the first picture to the last.
        reached_s: time of the last picture that was decoded.
        spacing_s: usual time between two pictures.
    """
    if not _shorter(Extent(stated_s, reached_s), spacing_s):
        return ""
    return f"the file is cut off: it states pictures until {stated_s:.3f} s and the last is at {reached_s:.3f} s"
