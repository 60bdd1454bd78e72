"""What to change when many clips are too short, computed from the lengths that were seen."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.dataset import REJECTS
from pipeline.shards.rejects import frames_of_too_short
from pipeline.spec import FrameSettings, Reason
from pipeline.storage import Storage

ENOUGH = 0.9
"""Share of the decoded clips that should be samples; below it there is advice."""
_FASTEST_FPS = 30
"""Fastest rate that is advised: that of most cameras; above it frames repeat."""


def too_short_by_frames(out: Storage) -> dict[int, int]:
    """Number of clips by frame count among the rejects that are too short but not empty, read in bounded memory.

    Raises:
        OSError, pyarrow.ArrowException: the rejects cannot be read.
    """
    counts = Counter[int]()
    with out.parquet(REJECTS) as file:
        for rows in file.iter_batches(columns=["reason", "detail"]):
            for reason, detail in zip(rows["reason"].to_pylist(), rows["detail"].to_pylist(), strict=True):
                if reason == Reason.TOO_SHORT.value and (frames := frames_of_too_short(detail)):
                    counts[frames] += 1
    return dict(counts)


@dataclass(frozen=True)
class Lengths:
    """The decoded clips of a job by their frame count at `settings.fps`."""

    kept: Mapping[int, int]
    short: Mapping[int, int]
    settings: FrameSettings

    @property
    def clips(self) -> int:
        """Number of all of them."""
        return sum(self.kept.values()) + sum(self.short.values())

    def _number(self, holds: Callable[[int], bool]) -> int:
        return sum(number for lengths in (self.kept, self.short) for frames, number in lengths.items() if holds(frames))

    def kept_at(self, fps: int) -> tuple[int, int]:
        """Least and largest number of clips with an allowed number of frames at a higher rate.

        A clip of n frames is longer than (n - 1) / F and at most n / F seconds; at G frames a second it therefore has
        at least floor((n - 1) G / F) + 1 and at most ceil(n G / F) frames.
        """
        ratio, low, high = fps / self.settings.fps, self.settings.min_frames, self.settings.max_frames

        def least(frames: int) -> int:
            return math.floor((frames - 1) * ratio + 1e-9) + 1

        def most(frames: int) -> int:
            return math.ceil(frames * ratio - 1e-9)

        surely = self._number(lambda frames: frames > 0 and low <= least(frames) and most(frames) <= high)
        perhaps = self._number(lambda frames: frames > 0 and low <= most(frames) and least(frames) <= high)
        return surely, perhaps

    def kept_from(self, min_frames: int) -> int:
        """Number of clips with at least `min_frames` frames, a lower limit than the present one."""
        return self._number(lambda frames: frames >= min_frames)

    def rate(self) -> int | None:
        """The lowest whole rate that keeps `ENOUGH` clips, or else most clips; None if no higher rate keeps more."""
        rates = range(math.floor(self.settings.fps) + 1, _FASTEST_FPS + 1)
        kept = {fps: self.kept_at(fps)[0] for fps in rates}
        enough = [fps for fps in rates if kept[fps] >= ENOUGH * self.clips]
        best = enough[0] if enough else max(rates, key=lambda fps: (kept[fps], -fps), default=0)
        return best if best and kept[best] > sum(self.kept.values()) else None

    def least_frames(self) -> int:
        """The highest `min_frames` that keeps `ENOUGH` clips."""
        lower = range(self.settings.min_frames - 1, 0, -1)
        return next((frames for frames in lower if self.kept_from(frames) >= ENOUGH * self.clips), 1)


def advice_on_short_clips(lengths: Lengths, sampled: bool) -> str:
    """One sentence if fewer than `ENOUGH` of the clips are long enough, else nothing.

    `sampled` is False for folders of frames, whose rate is what it is.
    """
    short, clips, settings = sum(lengths.short.values()), lengths.clips, lengths.settings
    if not short or clips - short >= ENOUGH * clips:
        return ""
    fact = f"{short} of {clips} clips have fewer than {settings.min_frames} frames"
    if sampled:
        fact = f"{short} of {clips} clips are shorter than {settings.min_frames / settings.fps:g} s"
        if fps := lengths.rate():
            surely, perhaps = lengths.kept_at(fps)
            about = "" if surely == perhaps else "at least "
            times = fps / settings.fps
            return (
                f"{fact}: in a new OUT, --frames.fps {fps} keeps {about}{math.floor(100 * surely / clips)} %, "
                f"with {times:g} times the frames"
            )
    fewest = lengths.least_frames()
    kept = math.floor(100 * lengths.kept_from(fewest) / clips)
    return f"{fact}: in a new OUT, --frames.min_frames {fewest} keeps {kept} %"
