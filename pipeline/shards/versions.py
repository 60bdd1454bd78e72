"""Versions of the programs that the bytes of the shards depend on."""

import socket

from PIL import __version__ as pillow_version

from pipeline.settings import UserError
from pipeline.shards.ffmpeg import ffmpeg_version


def writer_versions() -> dict[str, str]:
    """Versions of the encoders on this machine."""
    return {"ffmpeg": ffmpeg_version(), "pillow": pillow_version}


def check_versions(expected: dict[str, str]) -> None:
    """Check that this machine writes the same bytes as the one that planned the job.

    Raises:
        UserError: it has other versions.
    """
    if (current := writer_versions()) != expected:
        difference = ", ".join(
            f"{name} {current[name]} instead of {expected[name]}" for name in current if current[name] != expected[name]
        )
        raise UserError(
            f"the machine {socket.gethostname()} has {difference}: its shards would have different bytes; install "
            "the same versions on all nodes"
        )
