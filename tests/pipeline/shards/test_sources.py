import os
from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.shards.sources import list_sources, sample_key


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_class_folders(tmp_path: Path) -> None:
    for name in ("b/-x_1_2.mp4", "b/y.MKV", "a/deep/er/z.avi", "loose.webm", "b/readme.txt", ".hidden/h.mp4"):
        touch(tmp_path / name)
    listing = list_sources(tmp_path, None)
    assert listing.media == "clips"
    assert listing.classes == ["a", "b"]
    found = [(source.path, source.key, source.class_name, source.label) for source in listing.sources]
    assert found == [
        ("a/deep/er/z.avi", "z", "a", 0),
        ("b/-x_1_2.mp4", "-x_1_2", "b", 1),
        ("b/y.MKV", "y", "b", 1),
        ("loose.webm", "loose", "", -1),
    ]
    assert listing.ignored == {".txt": 1}


def test_keys_have_no_dot_or_separator_and_stay_different() -> None:
    names = ["a.b.mp4", "a b.mp4", "a%20b.mp4", "a~b.mp4", "ä.mp4", os.fsdecode(b"\xff.mp4"), "x\ny.mp4"]
    keys = [sample_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(set(key) <= set("abxyABCDEF0123456789%") for key in keys)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "clip.mp4")
    (tmp_path / "data" / "class").mkdir(parents=True)
    (tmp_path / "data" / "class" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "class" / "loop").symlink_to(tmp_path / "data")
    assert [source.path for source in list_sources(tmp_path / "data", None).sources] == ["class/link/clip.mp4"]


def test_mixed_media_must_be_chosen(tmp_path: Path) -> None:
    touch(tmp_path / "c" / "clip.mp4")
    touch(tmp_path / "c" / "image.JPEG")
    with pytest.raises(UserError, match="both clips and images: choose with --media"):
        list_sources(tmp_path, None)
    assert [source.key for source in list_sources(tmp_path, "images").sources] == ["image"]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_read_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        list_sources(tmp_path / name, None)
