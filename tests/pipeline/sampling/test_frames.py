import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sampling.frames import Every, FrameSampler, Sandwich, Uniform, check_sampler, draw, frames_at
from pipeline.sampling.sandwich import SandwichSettings, draw_frames
from pipeline.settings import UserError

FRAMES = st.integers(1, 60)
DRAW = st.floats(0, 1, exclude_max=True, width=32)


@settings(max_examples=25)
@given(frames=FRAMES, fps=st.sampled_from([0.5, 2.0, 12.0, 29.97]), data=st.data())
def test_frames_are_in_the_clip_and_as_many_as_asked_for(frames: int, fps: float, data: st.DataObject) -> None:
    counts: list[tuple[FrameSampler, int | None]] = [
        (Sandwich(), 3),
        (Uniform(5), 5),
        (Uniform(5, random=True), 5),
        (Every(0.7), None),
        (Every(0.7, count=4), 4),
    ]
    for sampler, count in counts:
        uniform = np.array(data.draw(st.lists(DRAW, min_size=sampler.draws, max_size=sampler.draws)))
        numbers = sampler(frames, frames / fps, uniform)
        assert numbers.dtype == np.int64
        assert ((numbers >= 0) & (numbers < frames)).all()
        assert len(numbers) == (count or len(numbers)) > 0
        if not isinstance(sampler, Sandwich):
            assert (np.diff(numbers) >= 0).all()


def test_uniform_frames_are_in_the_middle_of_equal_parts() -> None:
    none = np.empty(0)
    assert Uniform(4)(20, 10.0, none).tolist() == [2, 7, 12, 17]
    assert Uniform(1)(7, 3.5, none).tolist() == [3]
    assert Uniform(4)(2, 1.0, none).tolist() == [0, 0, 1, 1]
    drawn = {tuple(Uniform(2, random=True)(6, 3.0, np.array(pair) / 3).tolist()) for pair in np.ndindex(3, 3)}
    assert drawn == {(a, b) for a in range(3) for b in range(3, 6)}


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.5, [0, 1, 2, 3, 4, 5]), (1.0, [0, 2, 4]), (0.7, [0, 1, 2, 4, 5]), (9.0, [0])]
)
def test_every_takes_the_frame_on_display(seconds: float, expected: list[int]) -> None:
    assert Every(seconds)(6, 3.0, np.empty(0)).tolist() == expected


def test_every_starts_at_each_frame_that_leaves_room() -> None:
    starts = [Every(1.0, count=3)(8, 4.0, np.array([u])).tolist() for u in np.arange(16) / 16]
    assert sorted({tuple(numbers) for numbers in starts}) == [(s, s + 2, s + 4) for s in range(4)]
    assert [numbers[0] for numbers in starts] == sorted(4 * list(range(4)))
    assert Every(1.0, count=5)(6, 3.0, np.array([0.9])).tolist() == [0, 2, 4, 5, 5], "its last frame is repeated"


@given(frames=FRAMES, fps=st.sampled_from([0.5, 2.0, 23.976, 29.97]))
def test_a_frame_is_found_by_its_time(frames: int, fps: float) -> None:
    duration = frames / fps
    times = np.arange(frames) / fps
    assert frames_at(times, frames, duration).tolist() == list(range(frames))
    assert frames_at(times + 0.9 / fps, frames, duration).tolist() == list(range(frames))
    for outside in (-0.5 / fps, duration + 0.5 / fps):
        with pytest.raises(IndexError, match="there is no frame at"):
            frames_at(np.array([0.0, outside]), frames, duration)


@settings(max_examples=25)
@given(frames=FRAMES, uniform=st.tuples(DRAW, DRAW, DRAW))
def test_sandwich_draws_as_the_plan_does(frames: int, uniform: tuple[float, float, float]) -> None:
    expected = draw_frames(SandwichSettings(), np.array([frames]), np.array([uniform]))[0]
    assert draw(Sandwich(), "frames", frames, frames / 2, np.array(uniform)).tolist() == expected.tolist()


def test_stored_triplets_are_current_past_future() -> None:
    assert draw(Sandwich(), "triplets", 3, 9.0, np.zeros(3)).tolist() == [1, 0, 2]
    assert draw(Sandwich(auxiliary=("future",)), "triplets", 3, 9.0, np.zeros(2)).tolist() == [1, 2]
    assert draw(Uniform(3), "triplets", 3, 9.0, np.zeros(0)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("sampler", "media", "layout", "message"),
    [
        (Sandwich(), "images", "frames", "no past and future: use Uniform"),
        (Sandwich(auxiliary=("past", "past")), "clips", "triplets", "cannot be past,past"),
        (Every(1.0), "images", "frames", "no times: use Uniform"),
        (Every(1.0), "clips", "triplets", "no times: use Uniform"),
    ],
)
def test_what_samples_do_not_have_is_refused(sampler: FrameSampler, media: str, layout: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^DATA holds .*{message}"):
        check_sampler(sampler, media, layout, "DATA")


def test_numbers_out_of_range_are_refused() -> None:
    for sampler in (lambda: Uniform(0), lambda: Every(0.0), lambda: Every(float("nan")), lambda: Every(1.0, count=0)):
        with pytest.raises(ValueError, match="must be"):
            sampler()
