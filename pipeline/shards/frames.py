"""Clip -> JPEG frames at a constant rate, by one ffmpeg process."""

import re
from pathlib import Path

import ffmpeg
from pydantic import Field

from pipeline.settings import Settings
from pipeline.shards.ffmpeg import FfmpegError, FfmpegTimeout, run_ffmpeg
from pipeline.shards.rejects import Reason, Rejected

_END_THEN_START = b"\xff\xd9\xff\xd8"


class FrameSettings(Settings):
    """How frames are taken from clips."""

    fps: float = Field(2.0, gt=0)
    """Frames per second; frame k is the picture on display k/fps seconds after the first."""
    short_side: int = Field(256, ge=16)
    """Shorter side of a frame in pixels; smaller clips are not enlarged."""
    quality: int = Field(2, ge=1, le=31)
    """ffmpeg's JPEG quantiser scale: 1 best, 31 worst; 2 is about Pillow quality 95."""
    min_frames: int = Field(8, ge=1)
    """Clips with fewer frames are rejected; below 8 the sampling ranges of the method are empty."""
    deadline_s: float = Field(600.0, gt=0)
    """A clip whose decoding takes longer is rejected."""


def ffmpeg_arguments(path: Path, settings: FrameSettings) -> list[str]:
    """Arguments that make ffmpeg write the frames as concatenated JPEGs to its standard output.

    Upright (ffmpeg applies rotation metadata), square pixels, full-range 4:2:0, no metadata, one thread.
    Any decoding error ends it (`-xerror`), so a damaged clip is never taken for a short one.
    """
    factor = f"min(1,{settings.short_side}/min(iw*sar,ih))"
    filters = (
        "setpts=PTS-STARTPTS",
        f"fps=fps={settings.fps}:round=up",
        f"scale=w='max(1,round(iw*sar*{factor}))':h='max(1,round(ih*{factor}))':out_range=full",
        "setsar=1",
        "format=yuvj420p",
    )
    # A plain `vf` and no map: ffmpeg then takes the best of several video streams.
    output = ffmpeg.input(f"file:{path}", protocol_whitelist="file,pipe", threads=1).output(
        "pipe:",
        vf=",".join(filters),
        format="image2pipe",
        vcodec="mjpeg",
        qscale=settings.quality,
        threads=1,
        fflags="+bitexact",
        flags="+bitexact",
        an=None,
        sn=None,
        dn=None,
        xerror=None,
    )
    arguments: list[str] = output.get_args()
    return arguments


def split_jpegs(stream: bytes) -> list[bytes]:
    """Cut concatenated JPEGs apart; entropy-coded bytes never hold an unescaped marker."""
    if not stream:
        return []
    parts = stream.split(_END_THEN_START)
    last = len(parts) - 1
    return [b"\xff\xd8" * (i > 0) + part + b"\xff\xd9" * (i < last) for i, part in enumerate(parts)]


def _message(said: str, path: Path) -> str:
    """What ffmpeg said, in one line that is the same in every run and every folder."""
    same = re.sub(r" @ 0x[0-9a-f]+", "", said.replace(f"file:{path}", path.name))
    return "; ".join(dict.fromkeys(line.strip() for line in same.splitlines()))


def extract_frames(path: Path, settings: FrameSettings) -> list[bytes]:
    """Decode the clip at `path` into JPEG frames, in order of time.

    Raises:
        Rejected: it cannot be read or decoded to its end, takes too long, or has fewer than `min_frames`.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise Rejected(Reason.UNREADABLE, "the file is empty" if path.is_file() else "no such file")
    try:
        frames = split_jpegs(run_ffmpeg(ffmpeg_arguments(path, settings), settings.deadline_s))
    except FfmpegTimeout as error:
        raise Rejected(Reason.TIMEOUT, str(error)) from error
    except FfmpegError as error:
        raise Rejected(Reason.DECODE_ERROR, _message(str(error), path)) from error
    if len(frames) < settings.min_frames:
        raise Rejected(
            Reason.TOO_SHORT,
            f"{len(frames)} frames at {settings.fps:g} fps; min_frames is {settings.min_frames}",
        )
    return frames
