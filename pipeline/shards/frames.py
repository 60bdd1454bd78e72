"""Clip -> JPEG frames at a constant rate and their times, by one ffmpeg process."""

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, overload

import ffmpeg
import numpy as np
from PIL import Image

from pipeline.files import open_regular
from pipeline.shards.containers.completeness import missing_part, missing_pictures
from pipeline.shards.containers.read import read_statement
from pipeline.shards.ffmpeg import FfmpegError, FfmpegFlood, FfmpegTimeout, memory_file, run_ffmpeg
from pipeline.shards.images import check_side
from pipeline.shards.rejects import Rejected
from pipeline.shards.treatment import PLAIN, NeedsTreatment, Observer, Treatment
from pipeline.spec import FrameSettings, Reason

_CONTAINERS = "mov,matroska,avi,flv,mpeg,mpegvideo,mpegts,asf,ogg"
"""ffmpeg's demuxers of self-contained files; playlists, scripts and image formats are excluded."""
_MAX_MEMORY = 4 << 30
"""Bytes of address space for ffmpeg; an 8K 10-bit H.264 clip needs between 1 and 2 GiB."""
_MAX_JPEG_BYTES = 1 << 30
_MAX_TIMES_BYTES = 64 << 20
"""Limit of the printed times, enough for two million pictures."""
_END_THEN_START = b"\xff\xd9\xff\xd8"
_TIME = re.compile(rb"^frame:(\d+) +pts:(-?\d+)", re.MULTILINE)
_REASONS = (
    (r"exceeds specified max pixel count", Reason.TOO_LARGE, "more than max_pixels = {max_pixels} pixels"),
    (r"Cannot allocate memory", Reason.TOO_LARGE, "decoding takes too much memory"),
    (r"does not contain any stream|is not a decoding option", Reason.NOT_MEDIA, "no video stream"),
    (r"^(Error opening input|the input): Invalid data", Reason.NOT_MEDIA, "no supported video container"),
    (r"Impossible to convert between the formats", Reason.DECODE_ERROR, "colors that ffmpeg cannot convert"),
    (r"not on whitelist|Not detecting m3u8", Reason.NOT_MEDIA, "no supported video container"),
)
"""ffmpeg's messages with the reason and detail of the reject; all others are decoding errors."""


@dataclass(frozen=True)
class Frames:
    """The frames of one clip in order of time; nominally, frame k is at k/fps seconds."""

    jpegs: Sequence[bytes]
    times_s: list[float]
    """Presentation time of the picture of each frame, in seconds after the first picture."""
    treatment: Treatment
    """Processing of the pictures beyond scaling."""


@dataclass(frozen=True)
class Clock:
    """Frame rate as a fraction, and a time base (ticks per second) in which frame times are integers."""

    fps: Fraction
    ticks_per_s: int

    @classmethod
    def at(cls, fps: float) -> "Clock":
        """The clock of a frame rate, with ticks of about a microsecond or less."""
        rate = Fraction(fps).limit_denominator(100_000)
        return cls(rate, rate.numerator * -(-1_000_000 // rate.numerator))

    @property
    def ticks_per_frame(self) -> int:
        """Ticks from one frame to the next."""
        return int(self.ticks_per_s / self.fps)


def shown_pictures(pts: np.ndarray, frames: int, ticks_per_frame: int, nearest: bool) -> np.ndarray:
    """Index of the picture that each frame shows, by the rule of ffmpeg's fps filter (round=up).

    Args:
        pts: (pictures,) int64 presentation times in ticks, in order of decoding.
        frames: number of frames.
        ticks_per_frame: ticks from one frame to the next.
        nearest: show the picture nearest in time instead of the one on display.

    Returns:
        (frames,) indices of pictures.
    """
    since_first = pts - pts[0]
    takes_over = since_first
    if nearest:
        takes_over = np.concatenate([since_first[:1], (since_first[1:] + since_first[:-1]) // 2])
    first_frame = -(-takes_over // ticks_per_frame)
    return np.searchsorted(np.maximum.accumulate(first_frame), np.arange(frames), side="right") - 1


def ffmpeg_arguments(clip: str, times: str, settings: FrameSettings, treatment: Treatment = PLAIN) -> list[str]:
    """Arguments that make ffmpeg write the frames of `clip` to its standard output, as concatenated JPEGs.

    The presentation time of each decoded picture is written to `times`, a file or pipe that ffmpeg can open. Frames are
    upright (ffmpeg applies rotation metadata) with square pixels, 4:2:0 in JPEG's color space (full range, BT.601
    matrix), without metadata, by one thread, and byte-identical on all CPUs (except possibly for HDR clips, as zscale
    selects code by CPU). Any decoding error ends ffmpeg (`-xerror`), so a damaged clip is never taken for a short one.
    """
    clock = Clock.at(settings.fps)
    factor = f"min(1,{settings.short_side}/min(iw*sar,ih))"
    takes_over = "PTS" if settings.timing == "exact" else "if(isnan(PREV_INPTS),PTS,(PTS+PREV_INPTS)/2)"
    scaling = "flags=bicubic+accurate_rnd+bitexact"
    to_jpeg = f"out_range=full:out_color_matrix=bt601:{scaling}"
    size = f"w='max(1,round(iw*sar*{factor}))':h='max(1,round(ih*{factor}))'"
    if tones := treatment.tone_filters:  # after scaling, as it is slow
        color = (f"scale={size}:out_color_matrix=bt2020:{scaling}", "format=yuv444p12le", *tones, f"scale={to_jpeg}")
    else:
        color = (f"scale={size}:{to_jpeg}",)
    filters = (
        *treatment.first_filters,
        f"settb=1/{clock.ticks_per_s}",
        "metadata=mode=add:key=t:value=t",  # the print filter skips pictures without metadata
        "metadata=mode=print:file='{}'".format(times.replace(":", r"\:")),
        f"setpts='{takes_over}-STARTPTS'",
        f"fps=fps={clock.fps}:round=up",
        f"trim=end_frame={settings.max_frames + 1}",  # a gap in time is filled in one go, before any frame is encoded
        *color,
        "setsar=1",
        "format=yuv420p",
    )
    decoder = {"skip_frame:v": "noref"} if settings.timing == "reference" else {}
    source = ffmpeg.input(
        clip,
        protocol_whitelist="file",
        format_whitelist=_CONTAINERS,
        max_pixels=settings.max_pixels,
        flags="+bitexact",
        threads=1,
        **decoder,
    )
    # `vf` without a map: ffmpeg then takes the best of several video streams.
    output = source.output(
        "pipe:",
        vf=",".join(filters),
        format="image2pipe",
        vcodec="mjpeg",
        qscale=settings.quality,
        dct="int",
        threads=1,
        fflags="+bitexact",
        flags="+bitexact",
        an=None,
        sn=None,
        dn=None,
        xerror=None,
        **{"frames:v": settings.max_frames + 1},
    ).global_args("-filter_threads", "1")
    arguments: list[str] = output.get_args()
    return arguments


def split_jpegs(stream: bytes) -> list[bytes]:
    """Split concatenated JPEGs; entropy-coded bytes never contain an unescaped marker."""
    if not stream:
        return []
    parts = stream.split(_END_THEN_START)
    last = len(parts) - 1
    return [b"\xff\xd8" * (i > 0) + part + b"\xff\xd9" * (i < last) for i, part in enumerate(parts)]


class StoredJpegs(Sequence[bytes]):
    """Concatenated JPEGs in a file, of which only those in use are in memory."""

    _CHUNK = 1 << 20

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._edges, tail = file, [0], b""
        file.seek(0)
        while chunk := file.read(self._CHUNK):
            start, window = file.tell() - len(chunk) - len(tail), tail + chunk
            self._edges += [start + found.start() + 2 for found in re.finditer(re.escape(_END_THEN_START), window)]
            tail = window[1 - len(_END_THEN_START) :]
        self._edges += [file.tell()] * (file.tell() > 0)

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start, end = self._edges[range(len(self))[index]], self._edges[range(len(self))[index] + 1]
        self._file.seek(start)
        return self._file.read(end - start)


def _open(path: Path) -> IO[bytes]:
    """Open a regular file that is not empty.

    Raises:
        Rejected: it is empty, not a regular file, or cannot be opened.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise Rejected(Reason.UNREADABLE, error.strerror or "it cannot be opened") from error
    if os.fstat(file.fileno()).st_size > 0:
        return file
    file.close()
    raise Rejected(Reason.UNREADABLE, "the file is empty")


def _rejected(message: str, clip: str, settings: FrameSettings) -> Rejected:
    """The reject for ffmpeg's first message, with a detail that is the same in every run and every folder."""
    first = re.sub(r"^(\[[^\]]*\] *)+", "", message.replace(clip, "the input").splitlines()[0])
    for pattern, reason, detail in _REASONS:
        if re.search(pattern, first):
            return Rejected(reason, detail.format(max_pixels=settings.max_pixels))
    return Rejected(Reason.DECODE_ERROR, first)


@dataclass(frozen=True)
class _Decoded:
    jpegs: Sequence[bytes]
    report: bytes
    """Printed times of the decoded pictures."""
    track_id: int | None
    treatment: Treatment


def _decode_with(treatment: Treatment, file: IO[bytes], settings: FrameSettings, spool: IO[bytes] | None) -> _Decoded:
    """Run ffmpeg on an open clip.

    ffmpeg gets the clip as a descriptor: no file name can be taken for a pattern, an option or a URL, and the file may
    be removed meanwhile.

    Raises:
        NeedsTreatment: the clip needs another treatment.
    """
    clip = f"file:/dev/fd/{file.fileno()}"
    observer = Observer(treatment)
    try:
        with memory_file() as report:
            arguments = ffmpeg_arguments(clip, f"pipe:{report.fileno()}", settings, treatment)
            if spool is not None:  # it may hold the frames of an attempt with another treatment
                spool.seek(0)
                spool.truncate()
            jpegs = run_ffmpeg(
                arguments,
                settings.deadline_s,
                pass_fds=(file.fileno(), report.fileno()),
                max_memory=_MAX_MEMORY,
                max_written=_MAX_JPEG_BYTES,
                watch=observer,
                stdout=spool,
            )
            if report.seek(0, os.SEEK_END) > _MAX_TIMES_BYTES:
                raise FfmpegFlood("more pictures than can be listed")
            report.seek(0)
            frames = split_jpegs(jpegs) if spool is None else StoredJpegs(spool)
            return _Decoded(frames, report.read(), observer.track_id, treatment)
    except FfmpegTimeout as error:
        raise Rejected(Reason.TIMEOUT, str(error)) from error
    except FfmpegFlood as error:
        raise Rejected(Reason.TOO_LARGE, str(error)) from error
    except FfmpegError as error:
        raise _rejected(str(error), clip, settings) from error


def _decode(file: IO[bytes], settings: FrameSettings, spool: IO[bytes] | None) -> _Decoded:
    """Decode an open clip with the treatment that it needs, found by trying."""
    treatment = PLAIN
    while True:  # each attempt adds one
        try:
            return _decode_with(treatment, file, settings, spool)
        except NeedsTreatment as error:
            treatment = error.treatment


def extract_frames(path: Path, settings: FrameSettings, spool: IO[bytes] | None = None) -> Frames:
    """Decode the clip at `path` into JPEG frames.

    They are in memory, or in the file `spool`, open for reading and writing, from which they are read one by one.

    Raises:
        Rejected: it cannot be read or decoded to its end, is incomplete according to its container, takes too long, has
            too few or too many frames or too small or too large pictures, or the size or format of its pictures
            changes.
    """
    with _open(path) as file:
        statement = read_statement(file)
        if missing := missing_part(statement, os.fstat(file.fileno()).st_size):
            raise Rejected(Reason.DECODE_ERROR, missing)
        decoded = _decode(file, settings, spool)
    jpegs = decoded.jpegs
    pictures = _TIME.findall(decoded.report)
    if sum(number == b"0" for number, _ in pictures) > 1:  # ffmpeg restarted its filters
        raise Rejected(Reason.DECODE_ERROR, "the size or format of the pictures changes within the clip")
    if len(jpegs) > settings.max_frames:
        raise Rejected(Reason.TOO_LONG, f"more than max_frames = {settings.max_frames} frames at {settings.fps:g} fps")
    clock = Clock.at(settings.fps)
    pts = np.array([int(time) for _, time in pictures], dtype=np.int64)
    stated_s = statement.pictures_s.get(decoded.track_id) if decoded.track_id is not None else None
    if stated_s is not None and len(pts) and (missing := missing_pictures(stated_s, pts / clock.ticks_per_s)):
        raise Rejected(Reason.DECODE_ERROR, missing)
    if len(jpegs) < settings.min_frames:
        raise Rejected(
            Reason.TOO_SHORT,
            f"{len(jpegs)} frame{'s' * (len(jpegs) != 1)} at {settings.fps:g} fps; min_frames is {settings.min_frames}",
        )
    with Image.open(io.BytesIO(jpegs[0])) as first:
        check_side(first.size)
    shown = shown_pictures(pts, len(jpegs), clock.ticks_per_frame, settings.timing == "reference")
    times_s = (pts[shown] - pts[0]) / clock.ticks_per_s
    return Frames(jpegs, [round(time, 6) for time in times_s.tolist()], decoded.treatment)
