"""Clip -> JPEG frames at a constant rate and their times, by one ffmpeg process."""

import io
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

import ffmpeg
import numpy as np
from PIL import Image

from pipeline.files import open_regular
from pipeline.shards.containers.completeness import missing_part, missing_pictures
from pipeline.shards.containers.read import read_statement
from pipeline.shards.ffmpeg import FfmpegError, FfmpegFlood, FfmpegTimeout, memory_file, run_ffmpeg
from pipeline.shards.images import check_side
from pipeline.shards.rejects import Rejected, too_short
from pipeline.shards.segments import Clock
from pipeline.shards.treatment import PLAIN, NeedsTreatment, Observer, Treatment
from pipeline.spec import FrameSettings, Reason

_CONTAINERS = "mov,matroska,avi,flv,mpeg,mpegvideo,mpegts,asf,ogg"
"""ffmpeg's demuxers of self-contained files; playlists, scripts and image formats are excluded."""
MAX_MEMORY = 4 << 30
"""Bytes of address space for ffmpeg; an 8K 10-bit H.264 clip needs between 1 and 2 GiB."""
MAX_JPEG_BYTES = 1 << 30
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


class Selection(NamedTuple):
    """Which pictures ffmpeg shows in a long file (see pipeline/shards/segments.py)."""

    ticks_per_s: int
    count_expression: str
    """Number of wanted times before a time."""
    most: int | None
    """Number of wanted times, if it is known."""
    scene_threshold: float | None
    """Score above which a picture begins a scene; None: scenes do not matter."""
    tolerant: bool = False
    """Whether ffmpeg goes on after an error."""


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


def clip_name(file: IO[bytes]) -> str:
    """Name of an open clip for ffmpeg.

    ffmpeg gets the clip as a descriptor: no file name can be taken for a pattern, an option or a URL, and the file may
    be removed meanwhile.
    """
    return f"file:/dev/fd/{file.fileno()}"


def ffmpeg_input(clip: str, settings: FrameSettings) -> Any:  # noqa: ANN401 - ffmpeg-python is untyped
    """The clip as an input of ffmpeg, decoded in one thread."""
    decoder = {"skip_frame:v": "noref"} if settings.timing == "reference" else {}
    return ffmpeg.input(
        clip,
        protocol_whitelist="file",
        format_whitelist=_CONTAINERS,
        max_pixels=settings.max_pixels,
        flags="+bitexact",
        threads=1,
        **decoder,
    )


def _every_frame(settings: FrameSettings, takes_over: str) -> tuple[str, ...]:
    """Filters that show a clip at a constant rate."""
    return (
        f"setpts='{takes_over}-STARTPTS'",
        f"fps=fps={Clock.at(settings.fps).fps}:round=up",
        f"trim=end_frame={settings.max_frames + 1}",  # a gap in time is filled in one go, before any frame is encoded
    )


def _selected_frames(selection: Selection, takes_over: str) -> tuple[str, ...]:
    """Filters that show a file at the wanted times."""
    return (
        f"setpts='st(0,floor({takes_over})-STARTPTS);({selection.count_expression})*{selection.ticks_per_s}'",
        "settb=1",
        "fps=fps=1:round=up",
        *([f"trim=end_frame={selection.most}"] if selection.most is not None else []),
    )


def ffmpeg_arguments(
    clip: str,
    times: str,
    settings: FrameSettings,
    treatment: Treatment = PLAIN,
    selection: Selection | None = None,
) -> list[str]:
    """Arguments that make ffmpeg write the frames of `clip` to its standard output, as concatenated JPEGs.

    The presentation time of each decoded picture is written to `times`, a file or pipe that ffmpeg can open. Frames are
    upright (ffmpeg applies rotation metadata) with square pixels, 4:2:0 in JPEG's color space (full range, BT.601
    matrix), without metadata, by one thread, and byte-identical on all CPUs (except possibly for HDR clips, as zscale
    selects code by CPU). Any decoding error ends ffmpeg (`-xerror`), so a damaged clip is never taken for a short one.
    """
    ticks_per_s = Clock.at(settings.fps).ticks_per_s if selection is None else selection.ticks_per_s
    factor = f"min(1,{settings.short_side}/min(iw*sar,ih))"
    takes_over = "PTS" if settings.timing == "exact" else "if(isnan(PREV_INPTS),PTS,(PTS+PREV_INPTS)/2)"
    scaling = "flags=bicubic+accurate_rnd+bitexact"
    to_jpeg = f"out_range=full:out_color_matrix=bt601:{scaling}"
    size = f"w='max(1,round(iw*sar*{factor}))':h='max(1,round(ih*{factor}))'"
    if tones := treatment.tone_filters:  # after scaling, as it is slow
        color = (f"scale={size}:out_color_matrix=bt2020:{scaling}", "format=yuv444p12le", *tones, f"scale={to_jpeg}")
    else:
        color = (f"scale={size}:{to_jpeg}",)
    scenes: tuple[str, ...] = ()
    if selection is not None and selection.scene_threshold is not None:
        deleted = (f"metadata=mode=delete:key=lavfi.scd.{name}" for name in ("mafd", "score"))  # but not `time`
        scenes = (f"scdet=threshold={selection.scene_threshold}", *deleted)
    direct = ":direct=1" if selection is not None else ""
    filters = (
        *treatment.first_filters,
        f"settb=1/{ticks_per_s}",
        *scenes,
        "metadata=mode=add:key=t:value=t",  # the print filter skips pictures without metadata
        "metadata=mode=print:file='{}'{}".format(times.replace(":", r"\:"), direct),
        *(_every_frame(settings, takes_over) if selection is None else _selected_frames(selection, takes_over)),
        *color,
        "setsar=1",
        "format=yuv420p",
    )
    limits = {"frames:v": settings.max_frames + 1} if selection is None else {}
    on_error = {"max_error_rate": 1} if selection is not None and selection.tolerant else {"xerror": None}
    # `vf` without a map: ffmpeg then takes the best of several video streams.
    output = (
        ffmpeg_input(clip, settings)
        .output(
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
            **on_error,
            **limits,
        )
        .global_args("-filter_threads", "1")
    )
    arguments: list[str] = output.get_args()
    return arguments


def split_jpegs(stream: bytes) -> list[bytes]:
    """Split concatenated JPEGs."""
    splitter = JpegSplitter()
    return [*splitter.add(stream), *splitter.end()]


class JpegSplitter:
    """Splits concatenated JPEGs as they arrive; entropy-coded bytes never contain an unescaped marker."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> list[bytes]:
        """The JPEGs that are complete with more bytes."""
        *parts, rest = (self._rest + data).split(_END_THEN_START)
        self._rest = b"\xff\xd8" * bool(parts) + rest
        return [b"\xff\xd8" * (i > 0) + part + b"\xff\xd9" for i, part in enumerate(parts)]

    def end(self) -> list[bytes]:
        """The last JPEG; none if there was nothing."""
        return [self._rest] if self._rest else []


class StoredJpegs(Sequence[bytes]):
    """Concatenated JPEGs in a file, of which only those in use are in memory."""

    _CHUNK = 1 << 20

    def __init__(self, file: IO[bytes]) -> None:
        splitter, sizes = JpegSplitter(), list[int]()
        file.seek(0)
        while chunk := file.read(self._CHUNK):
            sizes += map(len, splitter.add(chunk))
        sizes += map(len, splitter.end())
        self._file, self._edges = file, [0, *itertools.accumulate(sizes)]

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


def open_clip(path: Path) -> IO[bytes]:
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


def rejected_by(message: str, clip: str, settings: FrameSettings) -> Rejected:
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

    Raises:
        NeedsTreatment: the clip needs another treatment.
    """
    clip = clip_name(file)
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
                max_memory=MAX_MEMORY,
                max_written=MAX_JPEG_BYTES,
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
        raise rejected_by(str(error), clip, settings) from error


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
    with open_clip(path) as file:
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
        raise too_short(len(jpegs), settings, sampled=True)
    with Image.open(io.BytesIO(jpegs[0])) as first:
        check_side(first.size)
    shown = shown_pictures(pts, len(jpegs), clock.ticks_per_frame, settings.timing == "reference")
    times_s = (pts[shown] - pts[0]) / clock.ticks_per_s
    return Frames(jpegs, [round(time, 6) for time in times_s.tolist()], decoded.treatment)
