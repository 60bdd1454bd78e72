from pathlib import Path

import pytest

from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings, Reason
from tests.pipeline.shards.containers.cuts import boxes, fault, statement, without_fragments, write

LAST = {4}
FLAGS = {
    "plain": "frag_keyframe+empty_moov+default_base_moof",
    "first_in_moov": "frag_keyframe",
    "indexed": "dash+frag_keyframe+global_sidx",
    "own_fragments_for_sound": "frag_keyframe+empty_moov+default_base_moof+separate_moof",
}


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Fragmented movies of five fragments of two seconds by kind."""
    folder = tmp_path_factory.mktemp("movies")
    return {
        kind: write(folder / f"{kind}.mp4", "-c:v", "mpeg4", "-movflags", flags, sound_s=12 * (kind == "plain"))
        for kind, flags in FLAGS.items()
    }


@pytest.mark.parametrize("kind", FLAGS)
def test_complete_movies_are_accepted(movies: dict[str, bytes], kind: str) -> None:
    assert fault(movies[kind]) == ""
    assert fault(without_fragments(movies[kind], set(), also=(b"mfra",))) == ""
    assert statement(movies[kind]).pictures_s == {1: pytest.approx(10 - 1 / 12, abs=0.03)}


@pytest.mark.parametrize("kind", FLAGS)
def test_fragments_missing_at_the_end_show_by_an_index(movies: dict[str, bytes], kind: str) -> None:
    last = {3} if kind == "first_in_moov" else {4}
    assert fault(without_fragments(movies[kind], last)).startswith("the file is cut off: it states 10.")


@pytest.mark.parametrize("kind", ["plain", "indexed", "own_fragments_for_sound"])
def test_fragments_missing_at_the_start_show_by_an_index(movies: dict[str, bytes], kind: str) -> None:
    assert fault(without_fragments(movies[kind], {0})).startswith("the file is cut off: it states 10.")


def test_without_an_index_or_a_duration_nothing_is_stated(movies: dict[str, bytes]) -> None:
    live = without_fragments(movies["plain"], {3, 4}, also=(b"mfra",))
    assert fault(live) == ""


@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("without", [(), (b"mfra", b"sidx")])
def test_fragments_missing_in_the_middle_are_a_hole(
    movies: dict[str, bytes], kind: str, without: tuple[bytes, ...]
) -> None:
    start_s = 6 if kind == "first_in_moov" else 4
    hole = statement(without_fragments(movies[kind], {2}, also=without)).hole_s
    assert hole == pytest.approx((start_s, start_s + 2), abs=0.03)


def test_a_hole_is_a_reject(movies: dict[str, bytes], tmp_path: Path) -> None:
    movie = movies["own_fragments_for_sound"]
    (tmp_path / "a.mp4").write_bytes(movie)
    assert len(extract_frames(tmp_path / "a.mp4", FrameSettings()).jpegs) == 20
    (tmp_path / "a.mp4").write_bytes(without_fragments(movie, {2}))
    with pytest.raises(Rejected, match=r"hole: it ends at 4\.000 s and goes on at 6\.000 s") as rejected:
        extract_frames(tmp_path / "a.mp4", FrameSettings())
    assert rejected.value.reason is Reason.DECODE_ERROR


def test_a_fragment_that_ends_early_is_cut_off(movies: dict[str, bytes]) -> None:
    kept = b"".join(boxes(without_fragments(movies["plain"], set(), also=(b"mfra",))))
    assert fault(kept[:-100]).startswith("the file is cut off: its last 100 bytes are missing; it states")


def with_mehd(movie: bytes, seconds: float) -> bytes:
    """The movie with a header that states the duration of all its fragments, in milliseconds."""
    mehd = (16).to_bytes(4, "big") + b"mehd" + bytes(4) + round(seconds * 1000).to_bytes(4, "big")
    at = movie.index(b"mvex")
    grown = bytearray(movie[: at + 4] + mehd + movie[at + 4 :])
    for parent in (b"moov", b"mvex"):
        offset = movie.index(parent) - 4
        grown[offset : offset + 4] = (int.from_bytes(movie[offset : offset + 4], "big") + len(mehd)).to_bytes(4, "big")
    return bytes(grown)


def test_the_header_of_the_movie_may_state_the_duration(movies: dict[str, bytes]) -> None:
    bare = without_fragments(movies["own_fragments_for_sound"], set(), also=(b"mfra",))
    assert fault(with_mehd(bare, 0)) == ""
    assert fault(with_mehd(bare, 10)) == ""
    assert fault(with_mehd(bare, 10.4)) == ""  # within the tolerance
    cut = without_fragments(with_mehd(bare, 10), LAST)
    assert fault(cut) == "the file is cut off: it states 10.000 s and holds 8.000 s"


def renumbered(movie: bytes, numbers: list[int]) -> bytes:
    """The movie with other sequence numbers of its fragments."""
    grown, at = bytearray(movie), 0
    for number in numbers:
        at = movie.index(b"mfhd", at) + 8
        grown[at : at + 4] = number.to_bytes(4, "big")
    return bytes(grown)


def test_numbers_alone_are_no_hole(movies: dict[str, bytes]) -> None:
    """Packagers number the fragments of several files in one row."""
    assert fault(renumbered(movies["own_fragments_for_sound"], [1, 3, 5, 9, 11])) == ""


def test_time_alone_is_no_hole(movies: dict[str, bytes]) -> None:
    """A screen recorder takes no picture while nothing moves."""
    gap = without_fragments(movies["own_fragments_for_sound"], {2}, also=(b"mfra",))
    assert fault(renumbered(gap, [1, 2, 3, 4])) == ""
    assert fault(renumbered(gap, [1, 3, 5, 7])) == ""
    assert fault(renumbered(gap, [1, 2, 4, 5])) != ""
