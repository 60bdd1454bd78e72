from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.shards.media import Media
from pipeline.shards.sources import Source, list_sources, open_data
from pipeline.storage import open_storage


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
        "b/@eaDir/y.MKV/thumbnail.jpg",
    ):
        touch(tmp_path / name)
    listing = list_sources(open_data(str(tmp_path)))
    assert found(list(listing.sources)) == [
        ("a/deep/er/z.avi", "a%2Fdeep%2Fer%2Fz%2Eavi", "a"),
        ("b/-x_1_2.mp4", "b%2F-x_1_2%2Emp4", "b"),
        ("b/y.MKV", "b%2Fy%2EMKV", "b"),
        ("loose.webm", "loose%2Ewebm", ""),
    ]
    assert listing.ignored == {".txt": 1, "hidden files": 2}


def test_media_that_was_not_asked_for_is_counted(tmp_path: Path) -> None:
    touch(tmp_path / "c" / "clip.mp4")
    touch(tmp_path / "c" / "image.JPEG")
    assert {source.media for source in list_sources(open_data(str(tmp_path))).sources} == {"clips", "images"}
    listing = list_sources(open_data(str(tmp_path)), "images")
    assert [source.key for source in listing.sources] == ["c%2Fimage%2EJPEG"]
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
    listing = list_sources(open_data(str(tmp_path / "clips")), annotations=open_storage(str(tmp_path / "train.csv")))
    assert found(list(listing.sources)) == [
        ("-abc_000001_000011.mp4", "-abc_000001_000011", "abseiling"),
        ("gone_000005_000015.mp4", "gone_000005_000015", "yoga"),  # listed but missing: it will be a reject
        ("part_2/def_000020_000030.webm", "def_000020_000030", "arm wrestling"),
    ]
    assert listing.ignored == {"rows of split val": 1, "clips that the annotations do not name": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("url,start\na,1\n", "has no column of files; allowed are path, "),
        ("youtube_id,time_start,time_end\nabc,one,2\n", "line 2, column time_start: 'one' is not a time"),
        ("youtube_id,time_start,time_end\n" + "a" * 200_000 + ",1,2\n", "line 2: field larger than field limit"),
        ('youtube_id,time_start,time_end\n"abc,1,2\ndef,3,4\n', "line 2: unexpected end of data"),
        ("youtube_id,time_start,time_end\nabc\n", "line 2, column time_start: '' is not a time"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, content: str, message: str) -> None:
    touch(tmp_path / "clips" / "a.mp4")
    touch(tmp_path / "train.csv", content)
    with pytest.raises(UserError, match=message):
        list(
            list_sources(
                open_data(str(tmp_path / "clips")), annotations=open_storage(str(tmp_path / "train.csv"))
            ).sources
        )


def test_all_files_of_an_annotated_name_are_inputs_of_one_key(tmp_path: Path) -> None:
    names = ["train/a_000001_000011.mp4", "replacement/a_000001_000011.mp4", "train/b_000001_000011.mp4"]
    names += ["train/b_000001_000011.mkv", "train/._a_000001_000011.mp4", "notes.txt"]
    for name in names:
        touch(tmp_path / "clips" / name)
    touch(tmp_path / "train.csv", "label,youtube_id,time_start,time_end\nrun,a,1,11\nrun,b,1,11\n")
    listing = list_sources(open_data(str(tmp_path / "clips")), annotations=open_storage(str(tmp_path / "train.csv")))
    stem = {name: Path(name).stem for name in sorted(names[:4])}
    assert found(list(listing.sources)) == [(name, key, "run") for name, key in stem.items()]
    assert listing.ignored == {"hidden files": 1, ".txt": 1}


@pytest.mark.parametrize(
    ("lines", "sources", "ignored"),
    [
        (
            "./cat/1.mp4\n./dog/a//2.mp4\n./3.mp4\n./cat/._1.mp4\n./.x/4.mp4\n./readme\n",
            [("3.mp4", ""), ("cat/1.mp4", "cat"), ("dog/a/2.mp4", "dog")],
            {"hidden files": 2, "files without extension": 1},
        ),
        (
            "../cat/1.mp4\n../2.mp4\nx/../dog/3.mp4\n/4.mp4\n/data/.d/yoga/5.mp4\n/data/.d/6.mp4\n",
            [
                ("../2.mp4", ""),
                ("../cat/1.mp4", "cat"),
                ("/4.mp4", ""),
                ("/data/.d/yoga/5.mp4", "yoga"),
                ("x/../dog/3.mp4", "dog"),
            ],
            {"hidden files": 1},
        ),
        ("\"cat/a b.mp4\"\n'dog/2.mp4'\t'big dog'\n", [("cat/a b.mp4", "cat"), ("dog/2.mp4", "big dog")], {}),
        (
            "ffconcat version 1.0\n# made\nfile 'cat/1.mp4'\nduration 3.25\nfile  \"dog/it's.mp4\"\nstream\n"
            "exact_stream_id 1\nfile 'dog/it'\\''s 2.mp4'\n",
            [("cat/1.mp4", "cat"), ("dog/it's 2.mp4", "dog"), ("dog/it's.mp4", "dog")],
            {"lines that name no file": 5},
        ),
        (
            "Abseiling down/clip 1.mp4\n01 Run/1.mp4\n3 x.mp4\n./#1/a.mp4\n'#2/a.mp4'\nduration 3.mp4\nstream a.mp4\n",
            [
                ("#1/a.mp4", "#1"),
                ("#2/a.mp4", "#2"),
                ("01 Run/1.mp4", "01 Run"),
                ("3 x.mp4", ""),
                ("Abseiling down/clip 1.mp4", "Abseiling down"),
                ("duration 3.mp4", ""),
                ("stream a.mp4", ""),
            ],
            {},
        ),
    ],
    ids=["find", "elsewhere", "quoted", "concat", "like other formats"],
)
def test_lists_of_other_programs(
    tmp_path: Path, lines: str, sources: list[tuple[str, str]], ignored: dict[str, int]
) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "list.txt").write_text(lines, encoding=encoding)
        listing = list_sources(open_data(str(tmp_path / "list.txt")))
        assert [(path, class_name) for path, _, class_name in found(list(listing.sources))] == sources
        assert listing.ignored == ignored


@pytest.mark.parametrize("media", [None, "clips"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("file cat/1.mp4", "looks like a line of an ffmpeg concat list: remove the word file"),
        ("'a.mp4' 'b.mp4'", "has quotes around something other than one path"),
        ('"a.mp4",', "has no tab; allowed are PATH, PATH<tab>CLASS, PATH NUMBER, or a first line that names columns"),
        ("my clip.mp4 zero", "has no tab"),
        ("frames/1.jpg 120 5", "has no tab"),
        ("s3://bucket/a.mp4", "is a URI; allowed are paths"),
        ("0 cat/1.mp4", r"'0 cat/1\.mp4' is not a file but 'cat/1\.mp4' is; allowed are PATH"),
        ("  4.0K cat/1.mp4", "is not a file but"),
        ("1. cat/1.mp4", "is not a file but"),
        ("4.0K\tcat/1.mp4", "the second column, 'cat/1.mp4', is a path"),
        ("cat\tcat/1.mp4", "the second column, 'cat/1.mp4', is a path"),
        ("d41d8cd98f00b204e9800998ecf8427e  cat/1.mp4", "looks like a line of a checksum program"),
        ("d41d8cd98f00b204e9800998ecf8427e *cat/1.mp4", "looks like a line of a checksum program"),
        ("MD5 (cat/1.mp4) = d41d8cd98f00b204e9800998ecf8427e", "has no tab"),
        ("-rw-r--r-- 1 ann lab 5 Nov 2 15:32 cat/1.mp4", "looks like a line of `ls -l`"),
        (r"C:\data\cat\1.mp4", "looks like a path of Windows"),
        ("C:/data/cat/1.mp4", "looks like a path of Windows"),
        (r"\\server\cat\1.mp4", "looks like a path of Windows"),
        (r"cat\1.mp4", "has backslashes and is not a file"),
        (r".\cat\1.mp4", "has backslashes and is not a file"),
        ("#dog/2.mp4", "may be a comment or a path: remove the line, or write ./ before"),
        ("outpoint 0", "the end, 0 s, is not after the start, 0 s"),
        ("inpoint 1:2:3:4", "'1:2:3:4' is not a time"),
        ("cat/1\0.mp4", "contains a NUL byte; it must be UTF-8 text"),
    ],
)
def test_listed_lines_that_cannot_be_read_are_named(
    tmp_path: Path, line: str, message: str, media: Media | None
) -> None:
    touch(tmp_path / "cat" / "1.mp4")
    touch(tmp_path / "list.txt", f"cat/0.mp4\n{line}\n")
    with pytest.raises(UserError, match=rf"list\.txt, line 2: .*{message}"):
        list(list_sources(open_data(str(tmp_path / "list.txt")), media).sources)


def test_existing_files_may_look_like_other_formats(tmp_path: Path) -> None:
    names = ["01 cat/1.mp4", "02 1.mp4", "a\\1.mp4"]
    for name in [*names, "cat/1.mp4", "cat/2.mp4", "1.mp4"]:
        touch(tmp_path / name)
    touch(tmp_path / "list.txt", "\n".join([*names, "01 cat/2.mp4"]))  # the last is not: a reject
    assert {s.path for s in list_sources(open_data(str(tmp_path / "list.txt"))).sources} == {*names, "01 cat/2.mp4"}


def test_splits_of_annotations_ignore_case(tmp_path: Path) -> None:
    touch(tmp_path / "clips" / "a_000001_000011.mp4")
    touch(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split\nrun,a,1,11,Train\nrun,b,1,11,VAL\n")
    listing = list_sources(
        open_data(str(tmp_path / "clips")), annotations=open_storage(str(tmp_path / "train.csv")), split="train"
    )
    assert [source.key for source in listing.sources] == ["a_000001_000011"]
    assert listing.ignored == {"rows of split VAL": 1}


def test_list_file(tmp_path: Path) -> None:
    lines = ["riding/a.mp4", "", "/elsewhere/waving/b.avi\twaving hands", "/data/yoga/d.mp4", "c.mp4", "readme.md"]
    touch(tmp_path / "list.txt", "\n".join(lines))
    data = open_data(str(tmp_path / "list.txt"))
    listing = list_sources(data)
    assert found(list(listing.sources)) == [
        ("/data/yoga/d.mp4", "%2Fdata%2Fyoga%2Fd%2Emp4", "yoga"),
        ("/elsewhere/waving/b.avi", "%2Felsewhere%2Fwaving%2Fb%2Eavi", "waving hands"),
        ("c.mp4", "c%2Emp4", ""),
        ("riding/a.mp4", "riding%2Fa%2Emp4", "riding"),
    ]
    assert listing.ignored == {".md": 1}
    assert data.root.uri == str(tmp_path)
    touch(tmp_path / "bad.tsv", "a.mp4\tb\tc\n")
    with pytest.raises(UserError, match=r"bad\.tsv, line 1: more than two columns"):
        list(list_sources(open_data(str(tmp_path / "bad.tsv"))).sources)
    touch(tmp_path / "comma.txt", "a.mp4\triding\nriding/a.mp4,riding\n")
    with pytest.raises(UserError, match=r"line 2: 'riding/a\.mp4,riding' has no tab"):
        list(list_sources(open_data(str(tmp_path / "comma.txt"))).sources)


def test_folders_of_frames_are_clips(tmp_path: Path) -> None:
    for name in ("train/yoga/x.1/00000.jpg", "train/yoga/x.1/00001.jpg", "train/abseiling/y/00000.jpg"):
        touch(tmp_path / name)
    touch(tmp_path / "labels.txt", "abseiling,Abseiling\nyoga,Yoga (class)\n")
    listing = list_sources(open_data(str(tmp_path / "train")), "frames")
    assert found(list(listing.sources)) == [
        ("abseiling/y", "abseiling%2Fy", "abseiling"),
        ("yoga/x.1", "yoga%2Fx%2E1", "yoga"),
    ]
    assert listing.names == {"abseiling": "Abseiling", "yoga": "Yoga (class)"}


def test_names_that_are_no_frames_do_not_make_a_folder_a_clip(tmp_path: Path) -> None:
    for name in ("yoga/x/img_1.jpg", "yoga/x/flow_1.jpg", "yoga/x/._img_1.jpg", "yoga/y/flow_1.jpg", "yoga/z/._1.jpg"):
        touch(tmp_path / name)
    listing = list_sources(open_data(str(tmp_path)), "frames", pattern=r"img_\d+\.jpg")
    assert [source.path for source in listing.sources] == ["yoga/x"]
    assert listing.ignored == {"images that frames.pattern does not match": 2, "hidden files": 2}


@pytest.mark.parametrize("rest", ["yoga,Yoga\n", "x" * 200_000])
def test_a_quote_left_open_in_the_names_of_classes_is_named(tmp_path: Path, rest: str) -> None:
    touch(tmp_path / "yoga" / "a.mp4")
    touch(tmp_path / "labels.txt", f'abseiling,"Abseiling\n{rest}')
    with pytest.raises(UserError, match=r"labels\.txt, line [123]: .*; rows are FOLDER,NAME with quotes in pairs"):
        list_sources(open_data(str(tmp_path)))


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "clip.mp4")
    (tmp_path / "data" / "class").mkdir(parents=True)
    (tmp_path / "data" / "class" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "class" / "loop").symlink_to(tmp_path / "data")
    touch(tmp_path / "data" / "clip.mp4")
    result = sorted(s.path for s in list_sources(open_data(str(tmp_path / "data"))).sources)
    assert result == ["class/link/clip.mp4", "clip.mp4"]


def test_the_parent_folder_is_found_for_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "train" / "n1" / "a.mp4")
    touch(tmp_path / "labels.txt", "n1,crane\n")
    monkeypatch.chdir(tmp_path / "train" / "n1")
    for spelled in (tmp_path / "train", f"{tmp_path}/train/", f"{tmp_path}/train/n1/..", "..", "../../train/."):
        assert list_sources(open_data(str(spelled))).names == {"n1": "crane"}


def test_data_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing does not exist or is not a folder"):
        open_data(str(tmp_path / "missing"))
    touch(tmp_path / "data.zip")
    with pytest.raises(UserError, match=r"data\.zip is neither a folder, nor an uncompressed \.tar"):
        open_data(str(tmp_path / "data.zip"))
    touch(tmp_path / "list.txt", "a.mp4\n")
    with pytest.raises(UserError, match="media = frames need a folder"):
        list_sources(open_data(str(tmp_path / "list.txt")), "frames")
    with pytest.raises(UserError, match="annotations name clips; media is images"):
        list_sources(open_data(str(tmp_path)), "images", open_storage(str(tmp_path / "list.txt")))
