"""Reasons for which inputs are rejected."""

from enum import Enum


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
    """Another input has the same file name; the first in path order is kept."""


class Rejected(Exception):  # noqa: N818 - a property of the input, not a fault of the program
    """An input cannot be used; becomes a row of `rejects.parquet`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
