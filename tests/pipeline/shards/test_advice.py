import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.advice import Lengths, advice_on_short_clips
from pipeline.shards.rejects import frames_of_too_short, too_short
from pipeline.spec import FrameSettings


def lengths(counts: dict[int, int], settings: FrameSettings) -> Lengths:
    """The lengths that a job sees of clips by frame count."""
    kept = {frames: number for frames, number in counts.items() if frames >= settings.min_frames}
    return Lengths(kept, {frames: counts[frames] for frames in counts.keys() - kept}, settings)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.integers(3, 30))
def test_clips_kept_at_another_rate_are_within_the_stated_bounds(hundredths: list[int], fps: int) -> None:
    """Clips last from 0.01 to 30 s; at F frames a second, ffmpeg gives ceil(F seconds) frames."""
    settings = FrameSettings(max_frames=300)
    seen = lengths(Counter(math.ceil(2 * n / 100) for n in hundredths), settings)
    least, most = seen.kept_at(fps)
    assert least <= sum(8 <= math.ceil(fps * n / 100) <= 300 for n in hundredths) <= most


@pytest.mark.parametrize(
    ("counts", "options", "sampled", "expected"),
    [
        (
            {7: 4, 4: 2, 3: 1, 12: 3},
            {},
            True,
            "7 of 10 clips are shorter than 4 s: in a new OUT, --frames.fps 5 keeps at least 90 %, with 2.5 times the "
            "frames",
        ),
        ({7: 1, 12: 9}, {}, True, ""),
        ({7: 2, 12: 8}, {}, True, "2 of 10 clips are shorter than 4 s: in a new OUT, --frames.fps 3 keeps 100 %, "),
        ({1: 10}, {}, True, "10 of 10 clips are shorter than 4 s: in a new OUT, --frames.min_frames 1 keeps 100 %"),
        ({7: 5, 12: 5}, {"fps": 30}, True, "--frames.min_frames 7 keeps 100 %"),
        ({7: 2, 800: 8}, {}, True, "in a new OUT, --frames.min_frames 7 keeps 100 %"),  # 800 frames at 3 fps: too long
        ({7: 2, 12: 8}, {}, False, "2 of 10 clips have fewer than 8 frames: in a new OUT, --frames.min_frames 7 keeps"),
    ],
)
def test_advice(counts: dict[int, int], options: dict[str, int], sampled: bool, expected: str) -> None:
    settings = FrameSettings.model_validate({"max_frames": 1000, **options})
    advice = advice_on_short_clips(lengths(counts, settings), sampled)
    assert (expected in advice) if expected else advice == ""


@pytest.mark.parametrize("sampled", [True, False])
def test_the_number_of_frames_is_read_from_what_was_written(sampled: bool) -> None:
    for frames in (1, 2, 17):
        detail = too_short(frames, FrameSettings(fps=2.5, min_frames=20), sampled).detail
        assert frames_of_too_short(detail) == frames
    assert frames_of_too_short("the key a belongs to 7 frames") is None
