import os
from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.shards.sources import Source, data_root, list_sources, sample_key


def touch(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def found(sources: list[Source]) -> list[tuple[str, str, str]]:
    return sorted((source.path, source.key, source.class_name) for source in sources)


def test_class_folders(tmp_path: Path) -> None:
    for name in (
        "b/-x_1_2.mp4",
        "b/y.MKV",
        "a/deep/er/z.avi",
        "loose.webm",
        "b/readme.txt",
        ".hidden/h.mp4",
        "b/._y.mp4",
    ):
        touch(tmp_path / name)
    listing = list_sources(str(tmp_path))
    assert found(list(listing.sources)) == [
        ("a/deep/er/z.avi", "z", "a"),
        ("b/-x_1_2.mp4", "-x_1_2", "b"),
        ("b/y.MKV", "y", "b"),
        ("loose.webm", "loose", ""),
    ]
    assert listing.ignored == {".txt": 1, "hidden files": 1}


def test_media_that_was_not_asked_for_is_counted(tmp_path: Path) -> None:
    touch(tmp_path / "c" / "clip.mp4")
    touch(tmp_path / "c" / "image.JPEG")
    assert {source.media for source in list_sources(str(tmp_path)).sources} == {"clips", "images"}
    listing = list_sources(str(tmp_path), "images")
    assert [source.key for source in listing.sources] == ["image"]
    assert listing.ignored == {".mp4": 1}


def test_annotation_file_names_clips_and_classes(tmp_path: Path) -> None:
    touch(tmp_path / "clips" / "-abc_000001_000011.mp4")
    touch(tmp_path / "clips" / "part_2" / "def_000020_000030.webm")
    touch(tmp_path / "clips" / "unlisted_000000_000010.mp4")
    touch(
        tmp_path / "train.csv",
        "label,youtube_id,time_start,time_end,split\n"
        'abseiling,-abc,1,11,train\n"arm wrestling",def,20,30,train\nyoga,gone,5,15,train\nyoga,other,5,15,val\n',
    )
    listing = list_sources(str(tmp_path / "clips"), annotations=str(tmp_path / "train.csv"))
    assert found(list(listing.sources)) == [
        ("-abc_000001_000011.mp4", "-abc_000001_000011", "abseiling"),
        ("gone_000005_000015.mp4", "gone_000005_000015", "yoga"),  # listed but missing: it will be a reject
        ("part_2/def_000020_000030.webm", "def_000020_000030", "arm wrestling"),
    ]
    assert listing.ignored == {"rows of split val": 1, "clips that the annotations do not name": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,start\na,1\n", "has no column time_end, time_start, youtube_id"),
        ("youtube_id,time_start,time_end\nabc,one,2\n", "line 2: time_start and time_end must be seconds"),
        ("youtube_id,time_start,time_end\n" + "a" * 200_000 + ",1,2\n", "line 1: field larger than field limit"),
        ('youtube_id,time_start,time_end\n"abc,1,2\ndef,3,4\n', "unexpected end of data"),
        ("youtube_id,time_start,time_end\nabc\n", "line 2: time_start and time_end must be seconds"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, content: str, message: str) -> None:
    touch(tmp_path / "clips" / "a.mp4")
    touch(tmp_path / "train.csv", content)
    with pytest.raises(UserError, match=message):
        list(list_sources(str(tmp_path / "clips"), annotations=str(tmp_path / "train.csv")).sources)


def test_list_file(tmp_path: Path) -> None:
    lines = ["riding/a.mp4", "", "/elsewhere/waving/b.avi\twaving hands", "/data/yoga/d.mp4", "c.mp4", "readme.md"]
    touch(tmp_path / "list.txt", "\n".join(lines))
    listing = list_sources(str(tmp_path / "list.txt"))
    assert found(list(listing.sources)) == [
        ("/data/yoga/d.mp4", "d", "yoga"),
        ("/elsewhere/waving/b.avi", "b", "waving hands"),
        ("c.mp4", "c", ""),
        ("riding/a.mp4", "a", "riding"),
    ]
    assert listing.ignored == {".md": 1}
    assert listing.root.place == str(tmp_path)
    touch(tmp_path / "bad.tsv", "a.mp4\tb\tc\n")
    with pytest.raises(UserError, match=r"bad\.tsv, line 1: more than two columns"):
        list(list_sources(str(tmp_path / "bad.tsv")).sources)
    for line in ("riding/a.mp4 0", "riding/a.mp4,riding"):
        touch(tmp_path / "space.txt", f"a.mp4\triding\n{line}\n")
        with pytest.raises(UserError, match=rf"line 2: '{line}' has no tab"):
            list(list_sources(str(tmp_path / "space.txt")).sources)


def test_folders_of_frames_are_clips(tmp_path: Path) -> None:
    for name in ("train/yoga/x.1/00000.jpg", "train/yoga/x.1/00001.jpg", "train/abseiling/y/00000.jpg"):
        touch(tmp_path / name)
    touch(tmp_path / "labels.txt", "abseiling,Abseiling\nyoga,Yoga (class)\n")
    listing = list_sources(str(tmp_path / "train"), "frames")
    assert found(list(listing.sources)) == [("abseiling/y", "y", "abseiling"), ("yoga/x.1", "x%2E1", "yoga")]
    assert listing.names == {"abseiling": "Abseiling", "yoga": "Yoga (class)"}


@pytest.mark.parametrize("rest", ["yoga,Yoga\n", "x" * 200_000])
def test_a_quote_left_open_in_the_names_of_classes_is_named(tmp_path: Path, rest: str) -> None:
    touch(tmp_path / "yoga" / "a.mp4")
    touch(tmp_path / "labels.txt", f'abseiling,"Abseiling\n{rest}')
    with pytest.raises(UserError, match=r"labels\.txt, line [123]: .*; rows are FOLDER,NAME with quotes in pairs"):
        list_sources(str(tmp_path))


def test_keys_have_no_dot_or_separator_and_stay_different() -> None:
    names = ["a.b", "a b", "a%20b", "a~b", "ä", os.fsdecode(b"\xff"), "x\ny", "..", "-a"]
    keys = [sample_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(set(key) <= set("-abxyABCDEF0123456789%") for key in keys)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "clip.mp4")
    (tmp_path / "data" / "class").mkdir(parents=True)
    (tmp_path / "data" / "class" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "class" / "loop").symlink_to(tmp_path / "data")
    touch(tmp_path / "data" / "clip.mp4")
    found = sorted(s.path for s in list_sources(str(tmp_path / "data")).sources)
    assert found == ["class/link/clip.mp4", "clip.mp4"]


def test_data_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing does not exist or is not a folder"):
        data_root(str(tmp_path / "missing"))
    touch(tmp_path / "data.zip")
    with pytest.raises(UserError, match=r"data\.zip is neither a folder, nor an uncompressed \.tar"):
        data_root(str(tmp_path / "data.zip"))
    touch(tmp_path / "list.txt", "a.mp4\n")
    with pytest.raises(UserError, match="media = frames need a folder"):
        list_sources(str(tmp_path / "list.txt"), "frames")
