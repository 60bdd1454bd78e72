"""One input (a clip, an image, or a folder of frames) -> its checked JPEG frames."""

import errno
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.shards.frame_names import in_order
from pipeline.shards.frames import extract_frames, open_clip
from pipeline.shards.images import checked_size, encode_image
from pipeline.shards.media import Media
from pipeline.shards.plan import Planned
from pipeline.shards.rejects import Rejected, too_short
from pipeline.shards.segment_frames import Approach, Extract, LeftOut, Loss, Rules, StartOver, extract_segments
from pipeline.shards.sources import frame_files
from pipeline.shards.tars import tar_in_path
from pipeline.spec import ClipSettings, FrameSettings, ImageSettings, Reason
from pipeline.storage import Storage
from pipeline.temporary import full_disk_is_temporary, temporary_folder

Seconds = defaultdict[str, float]
"""Time spent by stage: `decode` (ffmpeg or Pillow, encoding included), `fetch` (reading the input), `check`."""


_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that say nothing about the input: a full temporary folder must not cause rejects."""


_WHOLE = ClipSettings()
_PIECE_BYTES = 64 << 20
"""Bytes of a clip in a tar that are read at once."""


@dataclass(frozen=True)
class Inputs:
    """The location of a job's inputs, and how they are decoded."""

    root: Storage
    tar: str | None
    media: Media
    frames: FrameSettings
    images: ImageSettings
    clips: ClipSettings = _WHOLE

    def cuts(self, source: Planned) -> bool:
        """Whether an input is cut into segments."""
        return self.media == "clips" and (bool(source.cuts) or self.clips.cut_files)


@dataclass(frozen=True)
class Decoded:
    """The frames of one sample in order of time; one frame for an image."""

    jpegs: list[bytes]
    size: tuple[int, int]
    """Width and height of every frame in pixels."""
    fields: dict[str, Any]
    """Fields of the record: for clips `fps`, `times_s` and the processing of their pictures, for images `encoding`."""


@dataclass(frozen=True)
class DecodedSegment(Decoded):
    """The frames of a segment of an input."""

    name: str
    """Follows the key of the input."""
    start_s: float
    end_s: float
    class_name: str
    label: int


class Discard:
    """All that was decoded of the current input does not count: it is decoded again in another way."""


@contextmanager
def timed(seconds: Seconds, stage: str) -> Iterator[None]:
    """Add the duration of the block to a stage."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - started


def _bytes(inputs: Inputs, source: Planned, seconds: Seconds) -> bytes:
    with timed(seconds, "fetch"):
        if source.span is not None:
            return inputs.root.read(inputs.tar or tar_in_path(source.path), source.span)
        return inputs.root.read(source.path)


@contextmanager
def _local_file(inputs: Inputs, source: Planned, seconds: Seconds) -> Iterator[Path]:
    """The clip as a file on this machine, for ffmpeg."""
    with ExitStack() as stack:
        if source.span is None:
            with timed(seconds, "fetch"):
                path = stack.enter_context(inputs.root.local(source.path))
        else:
            folder = stack.enter_context(temporary_folder())
            path = (folder / "clip").with_suffix(PurePosixPath(source.path).suffix)
            with full_disk_is_temporary(), path.open("wb") as file:
                for span in _pieces(*source.span):
                    file.write(_bytes(inputs, source._replace(span=span), seconds))
        yield path


def _pieces(first: int, size: int) -> Iterator[tuple[int, int]]:
    """A span in pieces that fit into memory; at least one."""
    for start in range(0, max(size, 1), _PIECE_BYTES):
        yield first + start, min(_PIECE_BYTES, size - start)


def _clip(inputs: Inputs, source: Planned, seconds: Seconds) -> tuple[list[bytes], dict[str, Any]]:
    settings = inputs.frames
    with _local_file(inputs, source, seconds) as path, timed(seconds, "decode"):
        frames = extract_frames(path, settings)
    return [*frames.jpegs], {"fps": settings.fps, "times_s": frames.times_s, **frames.treatment.fields}


def _image(inputs: Inputs, source: Planned, seconds: Seconds) -> tuple[list[bytes], dict[str, Any]]:
    data = _bytes(inputs, source, seconds)
    with timed(seconds, "decode"):
        jpeg, encoding = encode_image(data, inputs.images)
    return [jpeg], {"encoding": encoding}


def _frame_folder(inputs: Inputs, source: Planned, seconds: Seconds) -> tuple[list[bytes], dict[str, Any]]:
    """Images of a folder in the order of the numbers in their names, as frames at the rate of the settings."""
    pattern = inputs.frames.pattern
    with timed(seconds, "fetch"):
        paths = frame_files(inputs.root.files(source.path), pattern)
        names = in_order((PurePosixPath(path).name for path in paths), chosen=pattern is not None)
    if len(names) < inputs.frames.min_frames:
        raise too_short(len(names), inputs.frames, sampled=False)
    if len(names) > inputs.frames.max_frames:
        raise Rejected(Reason.TOO_LONG, f"{len(names)} frames; max_frames is {inputs.frames.max_frames}")
    jpegs: list[bytes] = []
    encodings = Counter[str]()
    for name in names:
        try:
            (jpeg,), fields = _image(inputs, source._replace(path=f"{source.path}/{name}"), seconds)
        except Rejected as error:
            raise Rejected(error.reason, f"frame {len(jpegs)}: {error.detail}") from error
        jpegs.append(jpeg)
        encodings[fields["encoding"]] += 1
    fps = inputs.frames.fps
    times = [round(frame / fps, 6) for frame in range(len(jpegs))]
    return jpegs, {"fps": fps, "times_s": times, "encoding": dict(sorted(encodings.items()))}


_READERS = {"clips": _clip, "images": _image, "frames": _frame_folder}


@contextmanager
def _faults_of_the_input() -> Iterator[None]:
    """Turn errors while an input is read into rejects, unless this machine is at fault."""
    try:
        yield
    except FileNotFoundError as error:
        raise Rejected(Reason.UNREADABLE, "no such file") from error
    except (OSError, EOFError) as error:
        file_limit = isinstance(error, OSError) and error.errno == errno.EFBIG and error.filename is None  # `ulimit -f`
        if file_limit or getattr(error, "errno", None) in _MACHINE_ERRORS:
            raise
        raise Rejected(Reason.UNREADABLE, getattr(error, "strerror", None) or str(error)) from error


def _check_path(source: Planned) -> None:
    if source.fault:
        raise Rejected(Reason.UNREADABLE, source.fault)
    if "\0" in source.path:
        raise Rejected(Reason.UNREADABLE, "the path has a NUL byte")


def _size(jpegs: list[bytes], seconds: Seconds, numbered: bool) -> tuple[int, int]:
    """Check every JPEG by decoding it; returns the size of the pictures."""
    sizes = set()
    with timed(seconds, "check"):
        for number, jpeg in enumerate(jpegs):
            try:
                sizes.add(checked_size(jpeg))
            except Rejected as error:
                where = f"frame {number}: " if numbered else ""
                raise Rejected(error.reason, where + error.detail) from error
    if len(sizes) > 1:
        raise Rejected(Reason.DECODE_ERROR, f"the picture size changes within the clip: {sorted(sizes)}")
    return sizes.pop()


def decode(inputs: Inputs, source: Planned, seconds: Seconds) -> Decoded:
    """Decode one input and check every JPEG by decoding it; adds the time of each stage to `seconds`.

    Raises:
        Rejected: the input cannot be used.
        OSError: this machine lacks disk space, memory or open files.
    """
    _check_path(source)
    with _faults_of_the_input():
        jpegs, fields = _READERS[inputs.media](inputs, source, seconds)
    return Decoded(jpegs, _size(jpegs, seconds, numbered=inputs.media != "images"), fields)


def _timed_steps(steps: Iterator[Extract | Loss | LeftOut], seconds: Seconds) -> Iterator[Extract | Loss | LeftOut]:
    while True:
        with timed(seconds, "decode"):
            step = next(steps, None)
        if step is None:
            return
        yield step


def _segments(inputs: Inputs, source: Planned, seconds: Seconds) -> Iterator[DecodedSegment | Loss | LeftOut | Discard]:
    rules, approach = Rules(inputs.frames, inputs.clips), Approach()
    with _local_file(inputs, source, seconds) as path, open_clip(path) as file:
        while True:
            try:
                for step in _timed_steps(extract_segments(file, source.cuts, rules, approach), seconds):
                    yield _decoded(step, source, inputs, seconds) if isinstance(step, Extract) else step
                return
            except StartOver as error:
                approach = error.approach
                yield Discard()


def _decoded(extract: Extract, source: Planned, inputs: Inputs, seconds: Seconds) -> DecodedSegment | Loss:
    cut, start_s, end_s = extract.cut, extract.start_s, extract.end_s
    class_name, label = (source.class_name, source.label) if cut is None else (cut.class_name, cut.label)
    fields = {
        "fps": inputs.frames.fps,
        "times_s": extract.times_s,
        **extract.treatment.fields,
        "parent": source.key,
        "start_s": start_s,
        "end_s": end_s,
    }
    try:
        size = _size(extract.jpegs, seconds, numbered=True)
    except Rejected as error:
        return Loss(extract.name, start_s, end_s, error.reason, error.detail)
    return DecodedSegment(extract.jpegs, size, fields, extract.name, start_s, end_s, class_name, label)


def decode_segments(
    inputs: Inputs, source: Planned, seconds: Seconds
) -> Iterator[DecodedSegment | Loss | LeftOut | Discard]:
    """Decode one file and yield its segments, each as soon as it is complete; otherwise as `decode`.

    Raises:
        Rejected: nothing of the input can be used; what was yielded does not count.
    """
    _check_path(source)
    with _faults_of_the_input():
        yield from _segments(inputs, source, seconds)
