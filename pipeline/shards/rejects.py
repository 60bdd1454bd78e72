"""The error for an input that cannot be used."""

import re

from pipeline.spec import FrameSettings, Reason

_TOO_SHORT = re.compile(r"(\d+) frames?( at \S+ fps)?( before the file ends)?; min_frames is \d+")


class Rejected(Exception):  # noqa: N818 - a property of the input, not a fault of the program
    """An input cannot be used; becomes a row of `rejects.parquet`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


def too_short(frames: int, settings: FrameSettings, sampled: bool, is_cut_off: bool = False) -> Rejected:
    """The reject of a clip of `frames` frames, which were sampled at `settings.fps` or came as files.

    `is_cut_off` says that a segment has no more because its file ends.
    """
    rate = (f" at {settings.fps:g} fps" if sampled else "") + (" before the file ends" if is_cut_off else "")
    detail = f"{frames} frame{'s' * (frames != 1)}{rate}; min_frames is {settings.min_frames}"
    return Rejected(Reason.TOO_SHORT, detail)


def frames_of_too_short(detail: str) -> int | None:
    """The number of frames in a detail that `too_short` wrote; None for another one."""
    match = _TOO_SHORT.search(detail)
    return int(match[1]) if match else None
