from pathlib import Path

import numpy as np
import pytest

from pipeline.shards.containers.tracks import Edit, Track, pictures_s
from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings
from tests.pipeline.shards.containers.cuts import statement, write


def track(times: list[int], *edits: Edit) -> Track:
    return Track(1, True, 100, 0, 0, np.array(times, np.int64), list(edits), 0)


TEN = list(range(0, 1000, 100))


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ((), 9),
        ((Edit(0, 0),), 9),
        ((Edit(10_000, 0),), 9),
        ((Edit(10_000, 200),), 7),
        ((Edit(4_000, 200),), 3),
        ((Edit(100_000, -1), Edit(10_000, 0)), 9),  # shown after 100 s
        ((Edit(3_000, 0), Edit(3_000, 700)), 5),  # 0, 1, 2 and then 7, 8, 9
        ((Edit(3_000, 0), Edit(2_000, -1), Edit(3_000, 700)), 7),
        ((Edit(10_000, 2_000),), None),  # behind all pictures
    ],
)
def test_edit_lists_choose_pictures(edits: tuple[Edit, ...], expected: float | None) -> None:
    assert pictures_s(track(TEN, *edits), 1000) == expected


def test_the_duration_of_the_last_picture_does_not_count() -> None:
    assert pictures_s(track([0, 100, 5000]), 1000) == 50
    assert pictures_s(track([0]), 1000) == 0
    assert pictures_s(track([]), 1000) is None


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    options = ["-c:v", "mpeg4", "-bf", "2", "-movflags", "faststart", "-output_ts_offset", "3"]
    return write(tmp_path_factory.mktemp("movie") / "a.mp4", *options, sound_s=14)


def cut_on_a_sample(movie: bytes, endless: bool) -> bytes:
    """The first part of a movie, which ends after the picture that has number 70; sizes as they were, or unknown."""
    at = movie.rindex(b"mdat") - 4
    sizes_at = movie.index(b"stsz") + 16
    sizes = [int.from_bytes(movie[sizes_at + 4 * n : sizes_at + 4 * n + 4], "big") for n in range(70)]
    movie = bytes(4) + movie[4:] if endless and at == 0 else movie
    head = movie[:at] + bytes(4) + movie[at + 4 : at + 8] if endless else movie[: at + 8]
    return head + movie[at + 8 : at + 8 + sum(sizes)]


def test_pictures_and_not_sound_are_stated(movie: bytes) -> None:
    stated = statement(movie)
    assert stated.pictures_s == {1: pytest.approx(10 - 1 / 12, abs=0.01)}
    assert stated.end is not None
    assert stated.end <= len(movie)


@pytest.mark.parametrize(
    ("endless", "detail"),
    [
        (False, "the file is cut off: its last"),
        (True, r"the file is cut off: it states pictures until 9\.917 s and the last is at 5\.\d+ s"),
    ],
)
def test_a_movie_cut_between_samples_is_a_reject(tmp_path: Path, endless: bool, detail: str) -> None:
    movie = write(tmp_path / "a.mp4", "-c:v", "mpeg4", "-movflags", "faststart")
    (tmp_path / "a.mp4").write_bytes(cut_on_a_sample(movie, endless))
    with pytest.raises(Rejected, match=detail):
        extract_frames(tmp_path / "a.mp4", FrameSettings())


def test_variable_rate_and_b_frames_are_whole(tmp_path: Path) -> None:
    late = "setpts='PTS+(gt(N,60)*4+gt(N,118)*9)/TB'"
    write(tmp_path / "a.mp4", "-c:v", "mpeg4", "-bf", "2", "-vf", late, "-fps_mode", "passthrough")
    assert extract_frames(tmp_path / "a.mp4", FrameSettings()).times_s[-1] > 13
    reference = FrameSettings(timing="reference")
    assert extract_frames(tmp_path / "a.mp4", reference).times_s[-1] > 13
