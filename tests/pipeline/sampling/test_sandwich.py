import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.sampling.sandwich import SandwichSettings, draw_frames, frame_ranges
from tests.reference_data import read_json

REFERENCE = read_json("sampling")
DRAWS = 200_000
# two-sample comparison of 200,000 draws each; a bin of probability 1/8 that is off by 1.5 % is found with power > 0.99
P_VALUE = 1e-4


def draw(settings: SandwichSettings, frames: int, draws: int = DRAWS) -> np.ndarray:
    uniform = np.random.default_rng(0).random((draws, 1 + len(settings.auxiliary)))
    return draw_frames(settings, np.full(draws, frames), uniform)


def test_integer_ranges_match_the_released_code() -> None:
    lengths = np.arange(1, 61)
    ranges = frame_ranges(SandwichSettings(), lengths)
    for i, length in enumerate(lengths):
        expected = REFERENCE["integer_ranges_T_1_to_60"][str(length)]
        assert [bound[i] for bound in ranges.current] == expected["current_idx_range"]
        assert [bound[i] for bound in ranges.offsets[0]] == expected["past_off"]
        assert [bound[i] for bound in ranges.offsets[1]] == expected["future_off"]
        assert ranges.fallback[i] == expected["fallback"]


@pytest.mark.parametrize("frames", [int(length) for length in REFERENCE["by_total_frames"]])
def test_joint_distribution_matches_the_released_code(frames: int) -> None:
    from scipy.stats import chisquare  # takes a second

    current, past, future = draw(SandwichSettings(), frames).T
    expected = REFERENCE["by_total_frames"][str(frames)]
    for name, values in (("current", current), ("past_offset", current - past), ("future_offset", future - current)):
        counts = {int(key): count for key, count in expected[name].items()}
        assert set(np.unique(values)) == set(counts)
        ours = np.array([(values == key).sum() for key in counts])
        theirs = np.array(list(counts.values()))
        pooled = (ours + theirs) / 2
        assert chisquare(ours, pooled).pvalue > P_VALUE
    assert abs(np.corrcoef(current - past, future - current)[0, 1]) < 0.02 or len(np.unique(current - past)) == 1


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_short_clips_give_the_same_frame_three_times(frames: int) -> None:
    drawn = draw(SandwichSettings(), frames, 1000)
    assert (drawn == drawn[:, :1]).all()
    assert set(drawn[:, 0]) == set(range(frames))


@pytest.mark.parametrize(
    ("auxiliary", "signs"),
    [((), ()), (("past",), (-1,)), (("future",), (1,)), (("past", "past"), (-1, -1)), (("future", "future"), (1, 1))],
)
def test_ablation_variants(auxiliary: tuple[str, ...], signs: tuple[int, ...]) -> None:
    drawn = draw(SandwichSettings(auxiliary=auxiliary), 20, 2000)
    assert drawn.shape == (2000, 1 + len(signs))
    for column, sign in enumerate(signs, start=1):
        assert set((drawn[:, column] - drawn[:, 0]) * sign) == {3, 4, 5}
    if len(signs) == 2:
        assert (drawn[:, 1] != drawn[:, 2]).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"past_offset": (0.25, 0.35)}, "before current.* unit = fraction"),
        ({"future_offset": (0.25, 0.35)}, "beyond the clip.* unit = fraction"),
        ({"past_offset": (1.5, 2.5)}, r"past_offset = 1\.5, 2\.5 must be .*or seconds, with unit = seconds"),
        ({"current": (0.5, 0.5)}, "rising"),
        ({"current": (0, 5), "unit": "seconds"}, r"current = 0\.0, 5\.0 must be two rising fractions from 0 to 1 \["),
        ({"future_offset": (2.5, 1.5), "unit": "seconds"}, "rising numbers of seconds .* unit = seconds"),
        ({"unit": "minutes"}, "'fraction' or 'seconds'"),
        ({"auxiliary": ("sideways",)}, "past"),
    ],
)
def test_ranges_outside_the_clip_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SandwichSettings.model_validate(values)


def test_defaults_depend_on_the_unit() -> None:
    settings = SandwichSettings.model_validate({"unit": "seconds", "past_offset": (0.05, 0.1)})
    assert settings.past_offset == (0.05, 0.1)
    assert (settings.current, settings.future_offset) == ((0, 1), (1.5, 2.5))
    assert SandwichSettings.model_validate(settings.model_dump()) == settings
    assert "unit" not in SandwichSettings().model_dump(), "as in the runs that were recorded before there were units"


def test_the_frames_on_the_sides_never_limit_fractions() -> None:
    """So offsets do not depend on the current frame, as in the released code."""
    frames = np.arange(1, 3000)
    for past, future in itertools.product((0.05, 0.15, 0.25, 0.3), repeat=2):
        offsets = {"past_offset": (0.01, past), "future_offset": (0.01, future)}
        ranges = frame_ranges(SandwichSettings.model_validate(offsets), frames)
        fits = ~ranges.fallback
        assert (ranges.offsets[0][1] <= ranges.current[0])[fits].all()
        assert (ranges.offsets[1][1] <= frames - 1 - ranges.current[1])[fits].all()


def naive_choices(
    frames: int, fps: Fraction, offsets: dict[str, tuple[Fraction, Fraction]], auxiliary: tuple[str, ...]
) -> dict[int, list[list[int]]]:
    """For each possible current frame the possible frames of each auxiliary one, by comparing times."""
    choices = {}
    for current in range(frames):
        sides: list[list[int]] = []
        for direction in auxiliary:
            low, high = offsets[direction]
            sign = -1 if direction == "past" else 1
            sides.append([f for f in range(frames) if low <= sign * (f - current) / fps <= high])
        if all(sides):
            choices[current] = sides
    return choices


QUARTERS = st.integers(0, 12).map(lambda quarters: Fraction(quarters, 4))
PAIRS = st.tuples(QUARTERS, QUARTERS).map(lambda pair: (min(pair), max(pair)))
RATES = st.sampled_from(("1/2", "1", "2", "3", "12/5", "30000/20020")).map(Fraction)


@given(st.integers(1, 24), RATES, PAIRS, PAIRS, st.sampled_from([("past", "future"), ("past",), ("future", "future")]))
def test_frames_in_seconds_are_drawn_as_by_a_naive_program(
    frames: int, fps: Fraction, past: tuple[Fraction, Fraction], future: tuple[Fraction, Fraction], auxiliary: Any
) -> None:
    """Exactly: on a grid of uniform numbers, every choice comes up equally often."""
    seconds = {"past_offset": (*map(float, past),), "future_offset": (*map(float, future),)}
    settings = SandwichSettings.model_validate({"unit": "seconds", "auxiliary": auxiliary, **seconds})
    choices = naive_choices(frames, fps, {"past": past, "future": future}, auxiliary)
    most = math.lcm(*(len(side) for sides in choices.values() for side in sides)) if choices else 1
    if most > 500:
        return
    count = len(choices) or frames
    grid = [(np.arange(n) + 0.5) / n for n in (count, most)]
    uniform = np.array([(first, *[other] * len(auxiliary)) for first, other in itertools.product(*grid)])
    total = len(uniform)
    drawn = draw_frames(settings, np.full(total, frames), uniform, np.full(total, float(frames / fps)))
    if not choices:
        assert Counter(map(tuple, drawn.tolist())) == {(frame,) * (1 + len(auxiliary)): 1 for frame in range(frames)}
        return
    assert Counter(drawn[:, 0].tolist()) == dict.fromkeys(choices, most)
    for column in range(len(auxiliary)):
        pairs = Counter(map(tuple, drawn[:, [0, 1 + column]].tolist()))
        expected = {(now, f): most // len(sides[column]) for now, sides in choices.items() for f in sides[column]}
        assert pairs == expected


def test_clips_of_many_lengths_are_drawn_at_once() -> None:
    frames, fps = np.array([4, 7, 20, 1200, 150]), np.array([2.0, 2.0, 2.0, 2.0, 29.97])
    uniform = np.random.default_rng(0).random((5, 3))
    settings = SandwichSettings(unit="seconds")
    together = draw_frames(settings, frames, uniform, frames / fps)
    for row in range(5):
        one = slice(row, row + 1)
        assert (draw_frames(settings, frames[one], uniform[one], (frames / fps)[one]) == together[one]).all()
    assert (together[0] == together[0, 0]).all(), "2 seconds have no room for 1.5 on both sides"
    distances = np.abs(together[1:, 1:] - together[1:, :1]) / fps[1:, None]
    assert ((distances >= 1.5 - 1e-6) & (distances <= 2.5 + 1e-6)).all()


@pytest.mark.parametrize("fps", [2, 5, 6, 10, 25, 30])
def test_rounding_of_durations_does_not_move_a_bound(fps: int) -> None:
    frames = np.arange(1, 500)
    low, high = frame_ranges(SandwichSettings(unit="seconds"), frames, frames / fps).offsets[0]
    assert {*low.tolist()} == {-(-3 * fps // 2)}
    assert {*high.tolist()} == {5 * fps // 2}
