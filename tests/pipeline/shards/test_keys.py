import os
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes

import pytest

from pipeline.paths import path_bytes
from pipeline.shards.keys import MOST_BYTES, sample_key
from pipeline.spec import Keys


@pytest.mark.parametrize(
    "name",
    [
        "-_x4b5Cd3Ef_000001_000011.mp4",
        "n01440764_10026.JPEG",
        "n01440764_10026_n01440764.JPEG",  # Hugging Face
        "ILSVRC2012_val_00000293.JPEG",
        "ILSVRC2012_val_00000293_n01440764.JPEG",
        "ILSVRC2012_test_00000001.JPEG",
    ],
)
def test_names_of_kinetics_and_imagenet_are_keys_in_any_folder(name: str) -> None:
    stem = PurePosixPath(name).stem
    assert {sample_key(f"{folder}{name}", "auto") for folder in ("", "a/", "/b/c/")} == {stem}
    assert sample_key(f"a/{stem}", "auto", is_folder=True) == stem
    assert sample_key(f"a/{name}", "path") == f"a%2F{stem}%2E{name.partition('.')[2]}"


@pytest.mark.parametrize(
    "name", ["cam.mp4", "SOX5yA1l24A.mp4", "x_000001_000011.mp4", "n01440764_10026.tar.mp4", "a-n01440764_1.jpg"]
)
def test_other_names_are_keys_with_their_folders(name: str) -> None:
    keys = [sample_key(f"{folder}/{name}", "auto") for folder in ("day1", "day2")]
    assert keys == [f"day{day}%2F{name.replace('.', '%2E')}" for day in (1, 2)]
    assert sample_key(f"day1/{name}", "stem") == PurePosixPath(name).stem.replace(".", "%2E")


@pytest.mark.parametrize("keys", ["auto", "path"])
def test_keys_have_no_dot_or_separator_and_give_the_path_back(keys: Keys) -> None:
    names = ["a.b", "a b", "a%20b", "a~b", "ä", os.fsdecode(b"\xff"), "x\ny", "..a", "-a", "a/b", "a%2Fb", "a_b"]
    paths = [f"{name}.{extension}" for name in names for extension in ("mp4", "avi", "MP4")]
    made = [sample_key(path, keys) for path in paths]
    assert all(set(key) <= set("-_abimpvxyABCDEFMP0123456789%") for key in made)
    assert [unquote_to_bytes(key) for key in made] == [path_bytes(path) for path in paths]


def test_one_file_has_one_key_however_its_path_is_written() -> None:
    assert {sample_key(path, "path") for path in ("a/b.mp4", "./a//b.mp4", "a/./b.mp4", "c/../a/b.mp4")} == {
        "a%2Fb%2Emp4"
    }


def test_long_paths_have_keys_that_fit_a_file_name_and_stay_different() -> None:
    paths = [f"{'д' * 20}/{'a' * extra}/{'ж' * 30}{number}.mp4" for number in (1, 2) for extra in range(1, 60)]
    keys = [sample_key(path, "auto") for path in paths]
    assert len(set(keys)) == len(paths)
    assert {len(key) <= MOST_BYTES for key in keys} == {True}
    for key in keys:
        beginning, _, digest = key.partition("~")
        assert len(digest) == 32
        unquote_to_bytes(beginning).decode("utf-8", "strict" if beginning.endswith("a") else "replace")
        assert not beginning.endswith("%")
    at_limit = "a" * (MOST_BYTES - 6) + ".mp4"
    assert "~" not in sample_key(at_limit, "auto")
    assert "~" in sample_key("a" + at_limit, "auto")
