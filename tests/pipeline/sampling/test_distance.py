import itertools

import numpy as np
import pytest

from pipeline.sampling.distance import Distances, distance_notes, triplet_distances
from pipeline.sampling.sandwich import SandwichSettings, draw_frames

SECONDS = SandwichSettings(unit="seconds")


@pytest.mark.parametrize("settings", [SandwichSettings(), SECONDS, SandwichSettings(auxiliary=("future",))])
def test_distances_are_those_of_the_draws(settings: SandwichSettings) -> None:
    """Of draws on a fine grid of uniform numbers, all clips of which count."""
    fps, clips = 2.0, {3: 2, 8: 5, 11: 1, 20: 3, 61: 2}
    grid = (np.arange(60) + 0.5) / 60
    uniform = np.array([(first, *[other] * len(settings.auxiliary)) for first, other in itertools.product(grid, grid)])
    drawn = []
    for frames, number in clips.items():
        count = np.full(len(uniform), frames)
        distances = np.abs(np.diff(draw_frames(settings, count, uniform, count / fps)[:, [0, -1]])) / fps
        drawn += [distances[distances > 0]] * number
    every = np.concatenate(drawn)
    result = triplet_distances(settings, clips, fps)
    assert result is not None
    assert (result.least_s, result.most_s) == (every.min(), every.max())
    assert result.median_s == pytest.approx(np.median(every), abs=0.51 / fps)
    assert (result.clips, result.too_short) == (13, 2)
    assert result.far == (0 if settings.unit == "seconds" else 2)


def test_the_median_weighs_clips_equally_and_their_offsets_too() -> None:
    # 8 frames: offsets 1, 2; 20 frames: 3, 4, 5; each clip counts once
    for clips, median in (({8: 3, 20: 1}, 2.0), ({8: 1, 20: 4}, 4.0), ({8: 1, 20: 1}, 2.0), ({20: 1}, 4.0)):
        result = triplet_distances(SandwichSettings(), clips, 1.0)
        assert result is not None
        assert result.median_s == median


def test_a_long_recording_is_far_and_the_note_says_what_mends_it() -> None:
    ten_minutes = triplet_distances(SandwichSettings(), {20: 9, 1200: 1}, 2.0)
    assert ten_minutes == Distances(1.5, 2.0, 150.0, 10, 1, 0)
    range_note, warning = distance_notes(ten_minutes, SandwichSettings(), "frames")
    assert range_note == (
        "past and future frames lie 1.5 to 150.0 s from the current one, 2.0 s in the median "
        "(data.sandwich.unit = fraction)"
    )
    assert "in 1 of 10 clips" in warning
    assert warning.endswith(
        "train with --data.sandwich.unit seconds, or cut the inputs in a new OUT with --clips.length 10"
    )
    _, stored = distance_notes(ten_minutes, SandwichSettings(), "triplets")
    assert stored.endswith(
        "write new shards with --triplets.unit seconds, or cut the inputs in a new OUT with --clips.length 10"
    )
    in_seconds = triplet_distances(SECONDS, {20: 9, 1200: 1}, 2.0)
    assert in_seconds == Distances(1.5, 2.0, 2.5, 10, 0, 0)
    assert len(distance_notes(in_seconds, SECONDS, "frames")) == 1


def test_clips_that_are_too_short_are_counted() -> None:
    short = triplet_distances(SECONDS, {3: 4}, 2.0)
    assert short == Distances(0.0, 0.0, 0.0, 4, 0, 4)
    (note,) = distance_notes(short, SECONDS, "frames")
    assert "4 of 4 clips are too short" in note
    assert triplet_distances(SandwichSettings(auxiliary=()), {20: 1}, 2.0) is None
    assert triplet_distances(SandwichSettings(), {}, 2.0) is None
