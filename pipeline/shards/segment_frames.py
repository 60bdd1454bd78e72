"""Long file -> the frames of its segments, streamed from one ffmpeg process."""

import io
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, NamedTuple

from PIL import Image

from pipeline.shards.containers.completeness import ends_early, missing_part
from pipeline.shards.containers.read import read_statement
from pipeline.shards.damage import Damage, find_damage
from pipeline.shards.ffmpeg import Deadline, FfmpegError, FfmpegTimeout, stream_ffmpeg
from pipeline.shards.frames import (
    MAX_JPEG_BYTES,
    MAX_MEMORY,
    JpegSplitter,
    Selection,
    clip_name,
    ffmpeg_arguments,
    rejected_by,
)
from pipeline.shards.images import check_side
from pipeline.shards.rejects import Rejected, too_short
from pipeline.shards.segments import (
    MS_PER_S,
    Clock,
    Cut,
    Display,
    Frame,
    Grid,
    Picture,
    Segment,
    Wanted,
    count_expression,
    file_grids,
    make_cutter,
    span_grid,
    wanted_times,
    windows_from,
)
from pipeline.shards.treatment import PLAIN, NeedsTreatment, Observer, Treatment
from pipeline.spec import ClipSettings, FrameSettings, Reason

_MAX_EXPRESSION = 100_000
"""Characters of an expression; Linux allows 128 KiB in one argument. With more, a file is decoded once more."""
_RECORD = re.compile(rb"frame:(\d+) +pts:(-?\d+)[^\n]*\n((?:[^\n]*\n)*?)t=t\n")
_SCENE = b"lavfi.scd.time"
LEFT_OUT = "ends of clips shorter than frames.min_frames"


@dataclass(frozen=True)
class Extract:
    """The frames of one segment."""

    name: str
    """Follows the key of the file: `000012`, or `10500_14000`."""
    start_s: float
    end_s: float
    jpegs: list[bytes]
    times_s: list[float]
    """Presentation time of the picture of each frame, in seconds after the start of the segment."""
    treatment: Treatment
    cut: Cut | None


@dataclass(frozen=True)
class Loss:
    """A segment that is rejected; `name` is empty and `end_s` None for all that follows."""

    name: str
    start_s: float
    end_s: float | None
    reason: Reason
    detail: str


class LeftOut(NamedTuple):
    """Frames that are left out by a rule, not a fault."""

    kind: str


@dataclass(frozen=True)
class Approach:
    """What is known of a file from earlier attempts to decode it."""

    treatment: Treatment = PLAIN
    damage: tuple[Damage, ...] | None = None
    """Damaged stretches; None: it has not shown any."""


class StartOver(Exception):  # noqa: N818 - not a fault
    """The file must be decoded again in another way; what was extracted so far does not count."""

    def __init__(self, approach: Approach) -> None:
        super().__init__(str(approach))
        self.approach = approach


class _Stop(NamedTuple):
    """Why nothing can be used after a time."""

    time: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Rules:
    """How files are cut, and how frames are taken."""

    frames: FrameSettings
    clips: ClipSettings

    @cached_property
    def clock(self) -> Clock:
        """A clock in which milliseconds are whole."""
        return Clock.at(self.frames.fps, MS_PER_S)

    @cached_property
    def longest_gap(self) -> int:
        """Ticks between two pictures beyond which the times of a file are not believed."""
        return self.frames.max_frames * self.clock.ticks_per_frame

    def ticks(self, seconds: float) -> int:
        """Seconds in ticks."""
        return round(seconds * self.clock.ticks_per_s)

    def seconds(self, ticks: int) -> float:
        """Ticks in seconds."""
        return round(ticks / self.clock.ticks_per_s, 6)

    def end(self, segment: Segment, cut_short: bool) -> int:
        """The time at which a segment ends: where it was planned to, unless it is cut short."""
        end, cut = segment.end, segment.grid.cut
        span_end = None if cut is None or cut.end_ms is None else cut.end_ms * self.clock.ticks_per_s // MS_PER_S
        if not cut_short and self.clips.length is not None:
            end = segment.start + self.ticks(self.clips.length)
        elif not cut_short and not self.clips.scenes and span_end is not None:
            end = span_end
        return end if span_end is None else min(end, span_end)

    def name(self, segment: Segment, end: int) -> str:
        """Windows are numbered from the start of the file; other segments are named by their times in milliseconds."""
        grid = segment.grid
        if grid.cut is not None and not self.clips.cut_files:
            return span_name(grid.cut)
        if grid.cut is None and not self.clips.scenes:
            return f"{grid.window + segment.first // grid.period * grid.windows:06d}"
        start_ms, end_ms = (time * MS_PER_S // self.clock.ticks_per_s for time in (segment.start, end))
        return f"{start_ms}_{end_ms}"


def span_name(cut: Cut) -> str:
    """Name of a span, by its times in milliseconds."""
    return f"{cut.start_ms}_{'end' if cut.end_ms is None else cut.end_ms}"


def _lost_span(cut: Cut, reason: Reason, detail: str) -> Loss:
    end_s = None if cut.end_ms is None else cut.end_ms / MS_PER_S
    return Loss(span_name(cut), cut.start_ms / MS_PER_S, end_s, reason, detail)


class _Timeline:
    """Joins the JPEGs of ffmpeg with the wanted times, and with the pictures that it printed."""

    def __init__(self, rules: Rules, grids: list[Grid], damage: tuple[Damage, ...], hole: int | None) -> None:
        self._rules, self._damage, self._hole = rules, damage, hole
        self._wanted = wanted_times(grids)
        self._next = next(self._wanted, None)
        self._display = Display()
        self._jpegs = deque[bytes]()
        self._splitter = JpegSplitter()
        self._report = b""
        self._scene = 0
        self.pictures = 0
        self.first_pts = 0
        self.last = 0
        """Time of the last picture in the order of decoding."""
        self.latest = 0
        """Latest time of a picture."""
        self.stop: _Stop | None = None

    def add(self, jpegs: bytes, report: bytes) -> Iterator[tuple[Wanted, Frame, object]]:
        """Read more of ffmpeg's output; yields the frames whose pictures are known, with their scenes."""
        self._jpegs.extend(self._splitter.add(jpegs))
        self._report += report
        end = 0
        for record in _RECORD.finditer(self._report):
            end = record.end()
            if self.stop is None:
                self._picture(int(record[2]), record[1] == b"0", _SCENE in record[3])
        self._report = self._report[end:]
        yield from self._frames(ended=self.stop is not None)

    def end(self) -> Iterator[tuple[Wanted, Frame, object]]:
        """The frames that are left when ffmpeg has ended."""
        self._jpegs.extend(self._splitter.end())
        yield from self._frames(ended=True)

    def _picture(self, pts: int, is_first: bool, begins_scene: bool) -> None:
        if self.pictures == 0:
            self.first_pts = pts
        elif is_first:  # ffmpeg restarted its filters
            self.stop = _Stop(self.last, Reason.DECODE_ERROR, "the size or format of the pictures changes")
            return
        time = pts - self.first_pts
        if time - self.last > self._rules.longest_gap:
            jump = f"from {self._rules.seconds(self.last):.3f} s to {self._rules.seconds(time):.3f} s"
            self.stop = _Stop(self.last, Reason.DECODE_ERROR, f"the times of its pictures jump {jump}")
            return
        takes_over = time
        if self._rules.frames.timing == "reference" and self.pictures:
            takes_over = (pts + self.last + self.first_pts) // 2 - self.first_pts
        self._scene += begins_scene and not any(damage.holds(time) for damage in self._damage)
        self._display.add(Picture(takes_over, time, self._scene))
        self.pictures += 1
        self.last, self.latest = time, max(self.latest, time)

    def _frames(self, ended: bool) -> Iterator[tuple[Wanted, Frame, object]]:
        while self._jpegs and self._next is not None:
            if self.stop is not None and self._next.time > self.stop.time:
                return
            picture = self._display.at(self._next.time, ended)
            if picture is None:
                return
            fault, stretch = self._fault(self._next.time, picture)
            scene = (picture.scene, stretch) if self._rules.clips.scenes else None
            yield self._next, Frame(self._jpegs.popleft(), picture.time, fault), scene
            self._next = next(self._wanted, None)

    def _fault(self, time: int, picture: Picture) -> tuple[str, int]:
        """Why the picture on display at a time cannot be trusted, and the number of borders of damage before it."""
        borders = 0
        for damage in self._damage:
            if damage.holds(time):
                return damaged(damage, self._rules), borders + 1
            borders += 2 * (damage.start < time)
        following = self._display.next_time
        if self._hole is not None and following is not None and following - picture.time >= self._hole:
            start_s, end_s = self._rules.seconds(picture.time), self._rules.seconds(following)
            return f"the file has a hole: it ends at {start_s:.3f} s and goes on at {end_s:.3f} s", picture.time + 1
        return "", borders

    @property
    def is_done(self) -> bool:
        """Whether no further output is of use."""
        return self._next is None or (self.stop is not None and self._next.time > self.stop.time)

    @property
    def reached(self) -> int | None:
        """The first wanted time without a frame; None if there is none."""
        return None if self._next is None else self._next.time


def damaged(damage: Damage, rules: Rules) -> str:
    """The detail of a reject for a damaged stretch."""
    start = f"{rules.seconds(max(damage.start, 0)):.3f} s"
    return f"damaged from {start} to " + ("its end" if damage.end is None else f"{rules.seconds(damage.end):.3f} s")


class _Extraction:
    """One attempt to extract segments on some grids."""

    def __init__(self, file: IO[bytes], rules: Rules, grids: list[Grid], approach: Approach) -> None:
        self._file, self._rules, self._grids, self._approach = file, rules, grids, approach
        self._cutters = [make_cutter(grid, rules.clips, rules.clock, rules.frames.max_frames) for grid in grids]
        self._statement = read_statement(file)
        hole_s, self._statement = self._statement.hole_s, replace(self._statement, hole_s=None)
        hole = None if hole_s is None else rules.ticks(hole_s[1] - hole_s[0] - 0.5)
        self._timeline = _Timeline(rules, grids, approach.damage or (), hole)
        self._observer = Observer(approach.treatment)
        self._begun = set[int]()
        self._covered = 0
        self._checked_side = False
        self.found = False
        """Whether anything was extracted or lost."""
        self.frames = 0

    def run(self) -> Iterator[Extract | Loss | LeftOut]:
        """Decode the file.

        Raises:
            Rejected: nothing of it can be used.
            StartOver: it needs another approach.
        """
        yield from self._stream()
        stop = self._timeline.stop or self._cut_off()
        for segment in self._unfinished(stop):
            yield from self._result(segment, stop)
        yield from self._never_begun(stop)

    def _arguments(self, times: int) -> list[str]:
        lengths = [grid.length for grid in self._grids]
        clips = self._rules.clips
        selection = Selection(
            self._rules.clock.ticks_per_s,
            count_expression(self._grids),
            None if None in lengths else sum(length or 0 for length in lengths),
            clips.scene_threshold if clips.scenes else None,
            tolerant=self._approach.damage is not None,
        )
        return ffmpeg_arguments(
            clip_name(self._file), f"pipe:{times}", self._rules.frames, self._approach.treatment, selection
        )

    def _stream(self) -> Iterator[Extract | Loss | LeftOut]:
        settings, timeline = self._rules.frames, self._timeline
        deadline, minute = Deadline(settings.deadline_s), self._rules.ticks(60)
        chunks = stream_ffmpeg(self._arguments, deadline, (self._file.fileno(),), MAX_MEMORY, self._observer)
        put_off = 0
        try:
            for jpegs, report in chunks:
                for wanted, frame, scene in timeline.add(jpegs, report):
                    yield from self._frame(wanted, frame, scene)
                if timeline.is_done:
                    chunks.close()
                    return
                if timeline.latest // minute > put_off:
                    put_off = timeline.latest // minute
                    deadline.put_off()
        except NeedsTreatment as error:
            raise StartOver(replace(self._approach, treatment=error.treatment)) from error
        except FfmpegTimeout as error:
            timeline.stop = _Stop(timeline.reached or 0, Reason.TIMEOUT, str(error))
            return
        except FfmpegError as error:
            rejected = rejected_by(str(error), clip_name(self._file), settings)
            if rejected.reason != Reason.DECODE_ERROR or not timeline.pictures or self._approach.damage is not None:
                raise rejected from error
            raise StartOver(replace(self._approach, damage=self._find_damage(rejected))) from error
        for wanted, frame, scene in timeline.end():
            yield from self._frame(wanted, frame, scene)

    def _find_damage(self, rejected: Rejected) -> tuple[Damage, ...]:
        try:
            damage = find_damage(self._file, self._rules.frames, self._rules.clock.ticks_per_s)
        except FfmpegError as error:
            raise rejected from error
        if not damage:
            raise rejected
        return tuple(damage)

    def _frame(self, wanted: Wanted, frame: Frame, scene: object) -> Iterator[Extract | Loss | LeftOut]:
        if not self._checked_side:
            self._checked_side = True
            with Image.open(io.BytesIO(frame.jpeg)) as first:
                check_side(first.size)
        self.frames += 1
        if wanted.position == 0:
            self._begun.add(wanted.grid)
        cutter, length = self._cutters[wanted.grid], self._grids[wanted.grid].length
        for segment in cutter.add(wanted.position, frame, scene):
            yield from self._result(segment, None)
        if length is not None and wanted.position == length - 1:
            for segment in cutter.end():
                yield from self._result(segment, None)

    def _unfinished(self, stop: _Stop | None) -> list[Segment]:
        """Segments that the end of the file cut short; of windows only the first, if no other has all of its frames."""
        ended = (segment for each in self._cutters for segment in each.end(everything=stop is not None))
        segments = sorted(ended, key=lambda segment: segment.start)
        if stop is not None or not segments or segments[0].grid.cut is not None:
            return segments
        return segments[:1] if segments[0].end - segments[0].grid.step >= self._covered else []

    def _result(self, segment: Segment, stop: _Stop | None) -> Iterator[Extract | Loss | LeftOut]:
        rules, settings = self._rules, self._rules.frames
        end = rules.end(segment, cut_short=stop is None and segment.length is not None and not segment.is_complete)
        problem: tuple[Reason, str] | None = None
        if stop is not None:
            problem = stop.reason, stop.detail
        elif fault := segment.fault:
            problem = Reason.DECODE_ERROR, fault
        elif segment.count > settings.max_frames:
            problem = Reason.TOO_LONG, f"more than max_frames = {settings.max_frames} frames at {settings.fps:g} fps"
        elif sum(len(frame.jpeg) for frame in segment.frames) > MAX_JPEG_BYTES:
            problem = Reason.TOO_LARGE, f"more than {MAX_JPEG_BYTES} bytes of output"
        elif segment.count < settings.min_frames:
            if not (segment.grid.cut is not None and not rules.clips.cut_files):
                yield LeftOut(LEFT_OUT)
                return
            problem = Reason.TOO_SHORT, self._too_short(segment.count)
        self.found = True
        self._covered = max(self._covered, segment.end)
        name, start_s, end_s = rules.name(segment, end), rules.seconds(segment.start), rules.seconds(end)
        if problem is not None:
            yield Loss(name, start_s, end_s, *problem)
            return
        times_s = [rules.seconds(frame.time - segment.start) for frame in segment.frames]
        jpegs = [frame.jpeg for frame in segment.frames]
        yield Extract(name, start_s, end_s, jpegs, times_s, self._approach.treatment, segment.grid.cut)

    def _too_short(self, frames: int) -> str:
        return too_short(frames, self._rules.frames, sampled=True, is_cut_off=True).detail

    def _stated_s(self) -> float | None:
        """Stated time of the last picture in seconds; None if it is unknown."""
        track = self._observer.track_id
        return None if track is None else self._statement.pictures_s.get(track)

    def _stated_end(self) -> int | None:
        """Stated end of the file; None if it is unknown."""
        stated_s = [self._stated_s() or 0.0, *(extent.stated_s for extent in self._statement.extents)]
        return self._rules.ticks(max(stated_s)) or None

    def _cut_off(self) -> _Stop | None:
        """Whether the file ends too early."""
        timeline, rules = self._timeline, self._rules
        if timeline.is_done:
            return None
        last_damage = (self._approach.damage or (Damage(0, 0),))[-1]
        first_s = timeline.first_pts / rules.clock.ticks_per_s
        spacing_s = rules.seconds(timeline.latest) / max(1, timeline.pictures - 1)
        reached_s = max(first_s, 0) + rules.seconds(timeline.latest)
        believed = [e for e in self._statement.extents if ends_early(e.stated_s, reached_s, spacing_s)]
        statement = replace(self._statement, extents=believed)  # where headers are damaged, pictures know better
        detail = missing_part(statement, os.fstat(self._file.fileno()).st_size)
        if not detail and (stated_s := self._stated_s()) is not None:
            detail = ends_early(stated_s, reached_s, spacing_s)
        if not detail and last_damage.end is None:
            detail = damaged(last_damage, rules)
        return _Stop(timeline.latest, Reason.DECODE_ERROR, detail) if detail else None

    def _never_begun(self, stop: _Stop | None) -> Iterator[Loss]:
        """Spans, and windows of which it is known that they should exist, that have no frame."""
        rules, reached = self._rules, self._timeline.reached
        for number, grid in enumerate(self._grids):
            if grid.cut is not None and number not in self._begun:
                reason, detail = (stop.reason, stop.detail) if stop else (Reason.TOO_SHORT, self._too_short(0))
                self.found = True
                yield _lost_span(grid.cut, reason, detail)
        if stop is None or self._grids[0].cut is not None or reached is None:
            return
        stated = self._stated_end()
        if rules.clips.length is not None and not rules.clips.scenes and stated is not None:
            for start in windows_from(self._grids, reached, stated):
                grid = next(g for g in self._grids if start >= g.start and (start - g.start) % (g.period * g.step) == 0)
                self.found = True
                segment = Segment(grid, (start - grid.start) // grid.step, None)
                end = rules.end(segment, cut_short=False)
                name, end_s = rules.name(segment, end), rules.seconds(end)
                yield Loss(name, rules.seconds(start), end_s, stop.reason, stop.detail)
        else:
            self.found = True
            rest_s = None if stated is None else rules.seconds(stated)
            yield Loss("", rules.seconds(reached), rest_s, stop.reason, stop.detail)


def _batches(grids: list[Grid]) -> Iterator[list[Grid]]:
    """Grids in groups for which the expression is not too long."""
    if len(count_expression(grids)) <= _MAX_EXPRESSION or len(grids) == 1:
        yield grids
    else:
        yield from _batches(grids[: len(grids) // 2])
        yield from _batches(grids[len(grids) // 2 :])


def _span_grids(cuts: tuple[Cut, ...], rules: Rules) -> Iterator[Grid | Loss]:
    """The grids of spans; those that are too short or too long are lost at once."""
    settings, clock = rules.frames, rules.clock
    for cut in cuts:
        grid = span_grid(cut, clock, None if rules.clips.cut_files else settings.max_frames + 1)
        if cut.end_ms is not None and (frames := grid.length or 0) < settings.min_frames:
            yield _lost_span(cut, Reason.TOO_SHORT, too_short(frames, settings, sampled=True).detail)
        elif cut.end_ms is not None and not rules.clips.cut_files and frames > settings.max_frames:
            detail = f"{frames} frames at {settings.fps:g} fps; max_frames is {settings.max_frames}"
            yield _lost_span(cut, Reason.TOO_LONG, detail)
        else:
            yield grid


def extract_segments(
    file: IO[bytes], cuts: tuple[Cut, ...], rules: Rules, approach: Approach
) -> Iterator[Extract | Loss | LeftOut]:
    """Decode an open file once and yield its segments in the order of their ends, each as soon as it is complete.

    Frame k of a segment shows the picture on display at its start + k / fps after the file's first picture. What is
    damaged or missing rejects the segments that need it.

    Args:
        file: the open file.
        cuts: spans that a list names; without any, the whole file is cut.
        rules: how it is cut.
        approach: what is known of it; begin with `Approach()`.

    Raises:
        Rejected: nothing of it can be used.
        StartOver: it must be decoded again in another way, from the beginning.
    """
    grids = file_grids(rules.clips, rules.clock) if not cuts else []
    found, frames = False, 0
    for planned in _span_grids(cuts, rules):
        if isinstance(planned, Loss):
            found = True
            yield planned
        else:
            grids.append(planned)
    for batch in _batches(grids) if grids else ():
        extraction = _Extraction(file, rules, batch, approach)
        yield from extraction.run()
        found, frames = found or extraction.found, frames + extraction.frames
    if not found:
        raise too_short(frames, rules.frames, sampled=True)
