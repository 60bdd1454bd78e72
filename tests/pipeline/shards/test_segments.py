"""The decisions about segments, compared with their definitions."""

import math
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.segments import (
    MS_PER_S,
    Clock,
    Cut,
    Cutter,
    Display,
    Frame,
    Grid,
    Picture,
    Segment,
    count_expression,
    file_grids,
    frames_within,
    make_cutter,
    span_grid,
    wanted_times,
    windows_from,
)
from pipeline.spec import ClipSettings


def evaluate(expression: str, x: int) -> int:
    """Value of an expression of ffmpeg."""
    names = {
        "ld": lambda _: x,
        "ceil": math.ceil,
        "floor": math.floor,
        "mod": math.fmod,
        "min": min,
        "max": max,
        "lte": lambda a, b: a <= b,
        "if_": lambda condition, a, b: a if condition else b,
    }
    return int(eval(expression.replace("if(", "if_("), names))


CHOICES = st.tuples(
    st.integers(100, 20_000).map(lambda ms: ms / 1000),
    st.integers(1, 80).map(lambda quarters: quarters / 4),
    st.sampled_from([0.5, 2.0, 2.5, 6.4]),
)


@settings(max_examples=20)
@given(CHOICES)
def test_windows_take_over_at_their_exact_times(choice: tuple[float, float, float]) -> None:
    length, stride, fps = choice
    clips, clock = ClipSettings(length=length, stride=stride), Clock.at(fps, MS_PER_S)
    grids = file_grids(clips, clock)
    first = [wanted.time for wanted in islice(wanted_times(grids), 40)]
    frames = min(40, math.ceil(Fraction(str(length)) * clock.fps))
    starts = (window * int(stride * 1000) * clock.ticks_per_s // 1000 for window in range(40))
    assert first == sorted({start + k * clock.ticks_per_frame for start in starts for k in range(frames)})[:40]
    expression = count_expression(grids)
    for number, time in enumerate(first):
        if number % 3 == 0:
            assert [evaluate(expression, x) for x in (time, time + 1)] == [number, number + 1]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 4000)), min_size=1, max_size=8), st.booleans())
def test_spans_take_over_at_their_exact_times(spans: list[tuple[int, int]], is_open: bool) -> None:
    clock = Clock.at(2.0, MS_PER_S)
    cuts = [Cut(start, start + length, "", -1) for start, length in spans] + [Cut(700, None, "", -1)] * is_open
    grids = [span_grid(cut, clock, None) for cut in cuts]
    times = [wanted.time for wanted in islice(wanted_times(grids), 100)]
    assert times == sorted(times)
    expression = count_expression(grids)
    for time in times[:40:3]:
        for x in (time, time + 1):
            assert evaluate(expression, x) == sum(other < x for other in times)


def test_a_thousand_spans_need_few_comparisons() -> None:
    grids = [span_grid(Cut(5000 * i, 5000 * i + 4000, "", -1), Clock.at(2.0, MS_PER_S), None) for i in range(1000)]
    depth = longest = 0
    for character in count_expression(grids):
        depth += (character == "(") - (character == ")")
        longest = max(longest, depth)
    assert longest < 20


def names_of(cutter: Cutter, frames: int, scenes: list[int] | None = None) -> list[tuple[int, int]]:
    """First and last frame of each segment."""
    ended: list[Segment] = []
    for index in range(frames):
        scene = sum(index >= cut for cut in scenes) if scenes is not None else None
        ended += cutter.add(index, Frame(b"", index), scene)
    return [(s.first, s.first + s.count - 1) for s in [*ended, *cutter.end()]]


def test_windows_end_with_the_file() -> None:
    clips, clock = ClipSettings(length=2, stride=1), Clock.at(2, MS_PER_S)
    for frames, last in ((8, (4, 7)), (9, (6, 8)), (10, (6, 9))):
        (grid,) = file_grids(clips, clock)
        windows = names_of(make_cutter(grid, clips, clock, 99), frames)
        assert windows[-1] == last, "the last window is the first that reaches the end"
        assert windows[:3] == [(0, 3), (2, 5), (4, 7)]


def test_scenes_are_never_crossed() -> None:
    clips, clock = ClipSettings(scenes=True), Clock.at(2, MS_PER_S)
    scenes = [3, 4, 11]
    assert names_of(make_cutter(Grid(0, 1), clips, clock, 99), 20, scenes) == [(0, 2), (3, 3), (4, 10), (11, 19)]
    clips = ClipSettings(scenes=True, length=2, stride=1)
    windows = names_of(make_cutter(Grid(0, 1), clips, clock, 99), 20, scenes)
    assert windows == [(0, 2), (3, 3), (4, 7), (6, 9), (8, 10), (11, 14), (13, 16), (15, 18), (17, 19)]


def test_frames_beyond_the_most_are_counted_and_not_kept() -> None:
    cutter = Cutter(Grid(0, 1), None, None, most=3)
    for index in range(10):
        assert list(cutter.add(index, Frame(b"", index), 0)) == []
    (segment,) = cutter.end()
    assert (segment.count, len(segment.frames)) == (10, 3)


def test_the_picture_on_display_is_the_last_that_took_over() -> None:
    display = Display()
    for number, time in enumerate([0, 10, 25, 20, 40]):  # the fourth is out of order
        display.add(Picture(time, time, number))
    shown = [display.at(time, ended=False) for time in (0, 9, 10, 24, 25, 39, 40)]
    assert [None if picture is None else picture.scene for picture in shown] == [0, 0, 1, 1, 3, 3, None]
    last = display.at(45, ended=True)
    assert last is not None
    assert last.scene == 4


@pytest.mark.parametrize(("ms", "fps", "frames"), [(10_000, 2, 20), (10_001, 2, 21), (9_999, 2, 20), (1000, 29.97, 30)])
def test_frames_within_a_length(ms: int, fps: float, frames: int) -> None:
    assert frames_within(ms, Clock.at(fps, MS_PER_S)) == frames


def test_windows_that_must_follow() -> None:
    clock = Clock.at(2, MS_PER_S)
    grids = file_grids(ClipSettings(length=10, stride=3.25), clock)
    starts = [start / clock.ticks_per_s for start in windows_from(grids, 7 * clock.ticks_per_s, 17 * clock.ticks_per_s)]
    assert starts == [9.75, 13.0, 16.25]
