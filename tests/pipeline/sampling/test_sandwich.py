import numpy as np
import pytest
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
        ({"past_offset": (0.25, 0.35)}, "before current"),
        ({"future_offset": (0.25, 0.35)}, "beyond the clip"),
        ({"current": (0.5, 0.5)}, "rising"),
        ({"auxiliary": ("sideways",)}, "past"),
    ],
)
def test_ranges_outside_the_clip_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SandwichSettings.model_validate(values)
