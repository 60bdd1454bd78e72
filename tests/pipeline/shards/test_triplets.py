import numpy as np
import pytest

from pipeline.record import Sample, frame_names
from pipeline.shards.triplets import draw_triplets, triplet_samples
from pipeline.spec import TripletSettings
from tests.reference_data import read_json


def draw(key: str, frames: int, seed: int, count: int) -> list[tuple[int, int, int]]:
    return draw_triplets(key, frames, frames / 2, seed, TripletSettings(per_clip=count))


@pytest.mark.parametrize("frames", [8, 20, 57])
def test_draws_fill_the_recorded_ranges(frames: int) -> None:
    recorded = read_json("sampling")["integer_ranges_T_1_to_60"][str(frames)]
    drawn = np.array([t for key in range(400) for t in draw(f"clip{key}", frames, seed=0, count=4)])
    past, current, future = drawn.T
    assert [current.min(), current.max()] == recorded["current_idx_range"]
    assert [(current - past).min(), (current - past).max()] == recorded["past_off"]
    assert [(future - current).min(), (future - current).max()] == recorded["future_off"]
    assert np.all((past >= 0) & (past < current) & (current < future) & (future < frames))


def test_draws_depend_on_key_and_seed_alone() -> None:
    draws = {(key, seed): draw(key, 60, seed, 8) for key in ("a", "b") for seed in (0, 1)}
    assert len({tuple(d) for d in draws.values()}) == 4
    assert draw("a", 60, 0, 8) == draws["a", 0]
    assert draw("a", 60, 0, 3) == draws["a", 0][:3], "more draws leave the first as they are"
    assert len(set(draws["a", 0])) > 4


def test_offsets_in_seconds_do_not_grow_with_the_clip() -> None:
    settings = TripletSettings(per_clip=100, unit="seconds")
    drawn = np.array([t for key in range(9) for t in draw_triplets(f"clip{key}", 1200, 600.0, 0, settings)])
    assert {*(np.diff(drawn, axis=1) / 2).ravel().tolist()} == {1.5, 2.0, 2.5}
    assert drawn[:, 1].min() < 60
    assert drawn[:, 1].max() > 1140


def test_the_default_unit_is_not_recorded() -> None:
    """As in datasets that were made before there were units, which go on with the same settings."""
    assert TripletSettings().model_dump() == {"per_clip": 4}
    assert TripletSettings(unit="seconds").model_dump() == {"per_clip": 4, "unit": "seconds"}


def test_samples_contain_their_frames_and_numbers() -> None:
    jpegs = [f"jpeg {number}".encode() for number in range(20)]
    times = [number / 2 for number in range(20)]
    frames = list(zip(frame_names(20), jpegs, strict=True))
    clip = Sample("key", "c/key.mp4", 3, "c", (10, 10), frames, {"fps": 2.0, "times_s": times})
    samples = triplet_samples(clip, seed=0, settings=TripletSettings(per_clip=3))
    assert [sample.key for sample in samples] == ["key-00", "key-01", "key-02"]
    for sample, numbers in zip(samples, draw("key", 20, 0, 3), strict=True):
        assert sample.frames == [
            (f"{name}.jpg", jpegs[number]) for name, number in zip(("past", "current", "future"), numbers, strict=True)
        ]
        assert sample.fields["times_s"] == [times[number] for number in numbers]
        assert (sample.label, sample.class_member) == (3, False)
