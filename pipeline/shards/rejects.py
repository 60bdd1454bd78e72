"""A failure is a value: why one input is not in the shards."""

from enum import Enum


class Reason(str, Enum):
    """Why an input was rejected, as written to `rejects.parquet`."""

    UNREADABLE = "unreadable"
    """The file could not be opened or read."""
    NOT_MEDIA = "not_media"
    """No picture or video stream in a format that is read: a web page, a playlist, a drawing, audio alone."""
    DECODE_ERROR = "decode_error"
    """ffmpeg or Pillow could not decode it to its end."""
    TIMEOUT = "timeout"
    """Decoding ran past its deadline."""
    MIXED_NAMES = "mixed_names"
    """A folder of frames holds images of several kinds, or two of one number, told by their names."""
    TOO_SHORT = "too_short"
    """Fewer frames than `min_frames`."""
    TOO_LONG = "too_long"
    """More frames than `max_frames`."""
    TOO_SMALL = "too_small"
    """A side of the picture has fewer than 16 pixels."""
    TOO_LARGE = "too_large"
    """More pixels, bytes or JPEG scans than are decoded."""
    DUPLICATE_KEY = "duplicate_key"
    """Another input has the same file name; the first in path order is kept."""


class Rejected(Exception):  # noqa: N818 - a value that travels with its input, not a fault of the program
    """Raised while one input is read; becomes one row of `rejects.parquet`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
