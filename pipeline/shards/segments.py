"""Which frames of a file make which samples: windows, spans of a list, scenes. Pure decisions, in ticks of a clock.

Frames are shown at *wanted times*. They lie on one or more grids (`Grid`), each evenly spaced. A `Cutter` turns the
frames of one grid into segments. Times are ticks after the file's first picture.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any, NamedTuple

from pipeline.spec import ClipSettings

MS_PER_S = 1000


class Cut(NamedTuple):
    """A span of a file that a list names, with its class; without an end it goes on to the end of the file."""

    start_ms: int
    end_ms: int | None
    class_name: str
    label: int


@dataclass(frozen=True)
class Clock:
    """Frame rate as a fraction, and a time base (ticks per second) in which times of frames and cuts are integers."""

    fps: Fraction
    ticks_per_s: int

    @classmethod
    def at(cls, fps: float, multiple: int = 1) -> "Clock":
        """The clock of a frame rate, with ticks of about a microsecond or less, a `multiple` of which are a second."""
        rate = Fraction(fps).limit_denominator(100_000)
        whole = math.lcm(rate.numerator, multiple)
        return cls(rate, whole * -(-1_000_000 // whole))

    @property
    def ticks_per_frame(self) -> int:
        """Ticks from one frame to the next."""
        return int(self.ticks_per_s / self.fps)


def milliseconds(seconds: float) -> int:
    """Seconds as whole milliseconds."""
    return round(seconds * MS_PER_S)


def frames_within(ms: int, clock: Clock) -> int:
    """Number of frames in a segment of `ms` milliseconds: frame k is in it if k / fps is less."""
    return math.ceil(Fraction(ms, MS_PER_S) * clock.fps)


@dataclass(frozen=True)
class Grid:
    """Times `start`, `start + step`, ... of which the first `taken` of every `period` are wanted."""

    start: int
    step: int
    period: int = 1
    taken: int = 1
    length: int | None = None
    """Number of times; None: up to the end of the file."""
    window: int = 0
    """Number of the window that begins at `start`."""
    windows: int = 1
    """By how much that number grows from one window of this grid to the next."""
    cut: Cut | None = None
    """The span of a list that it covers."""

    def time(self, index: int) -> int:
        """The time with this index."""
        return self.start + index * self.step

    def wanted(self) -> Iterator[int]:
        """Indices of the wanted times."""
        indices = count() if self.length is None else range(self.length)
        return (index for index in indices if index % self.period < self.taken)


def file_grids(clips: ClipSettings, clock: Clock) -> list[Grid]:
    """The grids of a whole file: one for its scenes; for windows as many as there are stages between frames.

    Window n begins at n * stride. If stride * fps is whole, all windows share one grid, otherwise there are as many as
    its denominator.
    """
    step = clock.ticks_per_frame
    if clips.length is None or clips.scenes:
        return [Grid(0, step)]
    stride = Fraction(clips.stride_ms, MS_PER_S)
    grids = (stride * clock.fps).denominator
    period = int(grids * stride * clock.fps)
    taken = min(period, frames_within(milliseconds(clips.length), clock))
    first = [int(number * stride * clock.ticks_per_s) for number in range(grids)]
    return [Grid(start, step, period, taken, None, i, grids) for i, start in enumerate(first)]


def span_grid(cut: Cut, clock: Clock, most: int | None) -> Grid:
    """The grid of a span; without an end it has `most` times, or all up to the end of the file."""
    length = most if cut.end_ms is None else frames_within(cut.end_ms - cut.start_ms, clock)
    return Grid(cut.start_ms * clock.ticks_per_s // MS_PER_S, clock.ticks_per_frame, length=length, cut=cut)


class Wanted(NamedTuple):
    """A wanted time."""

    time: int
    grid: int
    """Index of its grid."""
    position: int
    """Its index in the grid."""


def wanted_times(grids: list[Grid]) -> Iterator[Wanted]:
    """All wanted times in order; times of several grids that coincide are several."""

    def of_grid(number: int) -> Iterator[Wanted]:
        return (Wanted(grids[number].time(position), number, position) for position in grids[number].wanted())

    return heapq.merge(*map(of_grid, range(len(grids))))


def count_expression(grids: list[Grid]) -> str:
    """Expression of ffmpeg for the number of wanted times before the time x (in ticks), which is in variable 0.

    A picture that comes at x therefore takes over at the wanted time with this number: with it as its presentation
    time, the fps filter at one frame a second shows exactly the wanted times, without any other rule.
    """
    if all(grid.length is None for grid in grids):
        return "+".join(_periodic(grid) for grid in grids)
    return _tree([(grid.start, grid.length) for grid in grids], grids[0].step)


def _index(start: int, step: int) -> str:
    return f"ceil((ld(0)-{start})/{step})"


def _periodic(grid: Grid) -> str:
    index = f"max(0,{_index(grid.start, grid.step)})"
    if grid.taken == grid.period:
        return index
    return f"floor({index}/{grid.period})*{grid.taken}+min({grid.taken},mod({index},{grid.period}))"


def _tree(spans: list[tuple[int, int | None]], step: int) -> str:
    """A balanced tree of comparisons, whose leaves count finished spans and the times of those that x lies in."""
    begins = [(start, 0, start, 0) for start, _ in spans]
    ends = [(start + (length - 1) * step, 1, start, length) for start, length in spans if length is not None]
    limits, leaves = list[int](), ["0"]
    done, active = 0, list[int]()
    for limit, is_end, start, length in sorted(begins + ends):
        if is_end:
            active.remove(start)
            done += length
        else:
            active.append(start)
        leaf = "+".join([str(done), *(_index(start, step) for start in active)])
        if limits and limits[-1] == limit:
            leaves[-1] = leaf
        else:
            limits.append(limit)
            leaves.append(leaf)

    def between(low: int, high: int) -> str:
        if low == high:
            return leaves[low]
        middle = (low + high) // 2
        return f"if(lte(ld(0),{limits[middle]}),{between(low, middle)},{between(middle + 1, high)})"

    return between(0, len(limits))


class Picture(NamedTuple):
    """A decoded picture."""

    takes_over: int
    """Time from which it is shown."""
    time: int
    """Its presentation time."""
    scene: int
    """Number of scene changes so far."""


class Display:
    """The pictures on display, as the fps filter shows them (round=up): the last that took over."""

    def __init__(self) -> None:
        self._pictures = deque[Picture]()

    def add(self, picture: Picture) -> None:
        """Add the next picture in the order of decoding; one that is out of order takes over with the one before."""
        if self._pictures:
            picture = picture._replace(takes_over=max(picture.takes_over, self._pictures[-1].takes_over))
        self._pictures.append(picture)

    @property
    def next_time(self) -> int | None:
        """Time of the picture after the one that `at` gave last; None if there is none yet."""
        return self._pictures[1].time if len(self._pictures) > 1 else None

    def at(self, time: int, ended: bool) -> Picture | None:
        """The picture at a time, never less than the time before; None if later pictures may still change it."""
        pictures = self._pictures
        if not pictures or (not ended and pictures[-1].takes_over <= time):
            return None
        while len(pictures) > 1 and pictures[1].takes_over <= time:
            pictures.popleft()
        return pictures[0]


class Frame(NamedTuple):
    """A frame of a segment."""

    jpeg: bytes
    time: int
    """Presentation time of its picture."""
    fault: str = ""
    """Why its picture cannot be trusted."""


@dataclass
class Segment:
    """Consecutive frames of a grid."""

    grid: Grid
    first: int
    """Index of its first frame in the grid."""
    length: int | None
    """Number of frames that it should have; None: as many as come."""
    frames: list[Frame] = field(default_factory=list)
    """At most `most` of the cutter."""
    count: int = 0
    """Number of its frames, kept or not."""

    @property
    def start(self) -> int:
        """Time of the first frame."""
        return self.grid.time(self.first)

    @property
    def end(self) -> int:
        """Time after its last frame."""
        return self.grid.time(self.first + self.count)

    @property
    def fault(self) -> str:
        """The first fault of a frame."""
        return next((frame.fault for frame in self.frames if frame.fault), "")

    @property
    def is_complete(self) -> bool:
        """Whether it has all frames that it should have."""
        return self.count == self.length


class Cutter:
    """Turns the frames of one grid into segments.

    Args:
        grid: the grid.
        length: frames of a segment; None: all up to the next scene or the end.
        every: a segment begins with every so many frames; None: only with a scene.
        most: number of frames beyond which those of a segment are not kept.
    """

    def __init__(self, grid: Grid, length: int | None, every: int | None, most: int) -> None:
        self._grid, self._length, self._every, self._most = grid, length, every, most
        self._open: list[Segment] = []
        self._scene: Any = None
        self._first = 0
        self._covered = -1

    def add(self, index: int, frame: Frame, scene: object) -> Iterator[Segment]:
        """Add a frame; yields the segments that end with it, or ended before it because a scene begins."""
        if scene != self._scene:
            yield from self.end()
            self._scene, self._first = scene, index
        since = index - self._first
        if since == 0 or (self._every is not None and since % self._every == 0):
            self._open.append(Segment(self._grid, index, self._length))
        for segment in self._open:
            segment.count += 1
            if segment.count <= self._most:
                segment.frames.append(frame)
        while self._open and self._open[0].is_complete:
            self._covered = index + 1
            yield self._open.pop(0)

    def end(self, everything: bool = False) -> list[Segment]:
        """End the segments that are shorter than they should be, and return the first if no other has its frames.

        With `everything`, all of them are returned.
        """
        ended, self._open = self._open, []
        if everything:
            return ended
        return [segment for segment in ended[:1] if segment.first + segment.count > self._covered]


def make_cutter(grid: Grid, clips: ClipSettings, clock: Clock, most: int) -> Cutter:
    """The cutter of a grid; at most `most` frames of a segment are kept."""
    if clips.length is None:
        return Cutter(grid, None if clips.scenes else grid.length, None, most)
    length = frames_within(milliseconds(clips.length), clock)
    is_dense = clips.scenes or grid.cut is not None
    every = int(Fraction(clips.stride_ms, MS_PER_S) * clock.fps) if is_dense else grid.period
    return Cutter(grid, length, every, most)


def windows_from(grids: list[Grid], start: int, end: int) -> Iterable[int]:
    """Start times of the windows of a whole file that begin at or after `start` and before `end`."""
    starts = set[int]()
    for grid in grids:
        spacing = grid.period * grid.step
        first = max(0, -(-(start - grid.start) // spacing))
        starts.update(range(grid.start + first * spacing, end, spacing))
    return sorted(starts)
