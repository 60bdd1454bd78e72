"""Datasets in the layouts in which they are published, made of empty files."""

import json
from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.shards.sources import Source, list_sources, open_data
from pipeline.storage import open_storage
from tests.docs.documents import DOCS, fenced
from tests.pipeline.shards.test_tars import tar_of


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(data: Path, annotations: Path | None = None, split: str = "train") -> list[Source]:
    storage = None if annotations is None else open_storage(str(annotations))
    return sorted(list_sources(open_data(str(data)), None, storage, split).sources, key=lambda s: (s.path, s.cut or ()))


def classes(data: Path, annotations: Path | None = None, split: str = "train") -> dict[str, str]:
    return {source.path: source.class_name for source in listed(data, annotations, split)}


def cuts(data: Path, annotations: Path, split: str = "train") -> list[tuple[str, str, tuple[int, int | None] | None]]:
    return [(source.path, source.class_name, source.cut) for source in listed(data, annotations, split)]


def test_ucf101(tmp_path: Path) -> None:
    names = [f"{c}/v_{c}_g{g:02d}_c01.avi" for c in ("ApplyEyeMakeup", "YoYo") for g in (1, 8)]
    make(tmp_path / "UCF-101", *names)
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n101 YoYo\r\n")
    (lists / "trainlist01.txt").write_text(f"{names[1]} 1\r\n{names[3]} 101\r\n")
    (lists / "testlist01.txt").write_text(f"{names[0]}\r\n{names[2]}\r\n")
    assert classes(tmp_path / "UCF-101", lists / "trainlist01.txt") == {names[1]: "ApplyEyeMakeup", names[3]: "YoYo"}
    assert classes(tmp_path / "UCF-101", lists / "testlist01.txt") == {names[0]: "ApplyEyeMakeup", names[2]: "YoYo"}
    assert classes(tmp_path / "UCF-101") == {name: name.split("/")[0] for name in names}


def test_hmdb51(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{c}/{n}_{c}_u_nm_np1_ba_goo_0.avi" for c in ("brush_hair", "cartwheel") for n in ("April_09", "[x]~1")]
    make(tmp_path / "hmdb51", *names)
    splits = tmp_path / "testTrainMulti_7030_splits"
    splits.mkdir()
    for c in ("brush_hair", "cartwheel"):
        lines = [f"{n.split('/')[1]} {i + 1} \n" for i, n in enumerate(n for n in names if n.startswith(c))]
        (splits / f"{c}_test_split1.txt").write_text("".join(lines))
    program = next(text for text in fenced(DOCS / "sources.md", "python") if "test_split" in text)
    exec(compile(program, "docs/sources.md", "exec"), {"__name__": "documented"})
    train = {names[0]: "brush_hair", names[2]: "cartwheel"}
    assert classes(tmp_path / "hmdb51", tmp_path / "hmdb51-train1.txt") == train
    with pytest.raises(
        UserError, match=r"brush_hair_test_split1\.txt is a split of HMDB51, whose numbers are no classes"
    ):
        listed(tmp_path / "hmdb51", splits / "brush_hair_test_split1.txt")


def test_something_something(tmp_path: Path) -> None:
    make(tmp_path / "20bn-something-something-v2", "78687.webm", "42326.webm", "1.webm")
    rows = [
        {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
        {
            "id": "42326",
            "label": "turning a cup",
            "template": "Turning [something] upside down",
            "placeholders": ["cup"],
        },
    ]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "train.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    (tmp_path / "labels" / "test.json").write_text('[\n{"id":"1"}]')
    data = tmp_path / "20bn-something-something-v2"
    train = {"78687.webm": "Holding [something]", "42326.webm": "Turning [something] upside down"}
    assert classes(data, tmp_path / "labels" / "train.json") == train
    assert classes(data, tmp_path / "labels" / "test.json") == {"1.webm": ""}


def test_kinetics_with_and_without_times_in_names(tmp_path: Path) -> None:
    data = tmp_path / "videos"
    make(
        data,
        "train/arm wrestling/-abcdefghij_000001_000011.mp4",
        "train/jf7RDuUTrsQ.mp4",
        "replacement/jf7RDuUTrsQ.mp4",
    )
    make(data, "val/arm wrestling/-abcdefghij_000001_000011.mkv", "train/unlisted.mp4")
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "arm wrestling,-abcdefghij,1,11,train,0\nyoga,jf7RDuUTrsQ,20,30,train,1\nyoga,gone_______,3,13,train,1\n"
    )
    result = [(source.path, source.key, source.class_name) for source in listed(data, tmp_path / "train.csv")]
    assert result == [
        ("gone________000003_000013.mp4", "gone________000003_000013", "yoga"),
        ("replacement/jf7RDuUTrsQ.mp4", "jf7RDuUTrsQ", "yoga"),
        ("train/arm wrestling/-abcdefghij_000001_000011.mp4", "-abcdefghij_000001_000011", "arm wrestling"),
        ("train/jf7RDuUTrsQ.mp4", "jf7RDuUTrsQ", "yoga"),
        ("val/arm wrestling/-abcdefghij_000001_000011.mkv", "-abcdefghij_000001_000011", "arm wrestling"),
    ]
    assert {source.cut for source in listed(data, tmp_path / "train.csv")} == {None}
    (data / "train.csv").write_text((tmp_path / "train.csv").read_text())
    with pytest.raises(
        UserError, match=r"train\.csv, line 2: '-abcdefghij' is the name of a clip, not a path: give the f"
    ):
        listed(data / "train.csv")


def test_lists_of_training_programs(tmp_path: Path) -> None:
    for name, line in (
        ("train.csv", "/data/k400/arm wrestling/-abcdefghij_000001_000011.mp4 6"),  # PySlowFast, VideoMAE, V-JEPA
        ("train.csv", "/data/k400/arm wrestling/-abcdefghij_000001_000011.mp4,6"),
        ("list_videos.txt", "/data/k400/arm wrestling/-abcdefghij_000001_000011.mp4 6"),  # MMAction2
    ):
        (tmp_path / name).write_text(f"{line}\n")
        assert [(s.key, s.class_name) for s in listed(tmp_path / name)] == [("-abcdefghij_000001_000011", "6")]


def test_parts_of_whole_videos(tmp_path: Path) -> None:
    data = tmp_path / "videos"
    make(data, "v_3l7quTy4c2s.mp4", "P01/videos/P01_01.MP4", "uid-1.mp4", "a/Xyz12345678.webm")
    tables = {
        "activitynet.csv": "video-id,label-name,start-time,end-time\n3l7quTy4c2s,Zumba,0.01,24.5\n3l7quTy4c2s,,30,40\n",
        "epic.csv": "narration_id,video_id,start_timestamp,stop_timestamp\nP01_01_0,P01_01,00:00:01.089,00:00:02.95\n",
        "egoclip.csv": "video_uid\tclip_start\tclip_end\tclip_text\nuid-1\t3.5\t7.25\tC picks, a cup\n",
        "clips.csv": "clip_uid,video_uid,video_start_sec,video_end_sec\nc,uid-1,0,300.0\n",
        "howto100m.csv": "video_id,category_1,category_2,rank,task_id\nXyz12345678,Food,Recipes,1,7\n",
    }
    result = {}
    for name, content in tables.items():
        (tmp_path / name).write_text(content)
        result[name] = cuts(data, tmp_path / name)
    assert result == {
        "activitynet.csv": [("v_3l7quTy4c2s.mp4", "Zumba", (10, 24500)), ("v_3l7quTy4c2s.mp4", "", (30000, 40000))],
        "epic.csv": [("P01/videos/P01_01.MP4", "", (1089, 2950))],
        "egoclip.csv": [("uid-1.mp4", "", (3500, 7250))],
        "clips.csv": [("uid-1.mp4", "", (0, 300000))],
        "howto100m.csv": [("a/Xyz12345678.webm", "", None)],
    }
    part = {"label": "Zumba", "segment": [0.01, 24.5]}
    database = {"3l7quTy4c2s": {"subset": "training", "annotations": [part]}}
    (tmp_path / "activity_net.v1-3.min.json").write_text(json.dumps({"database": database}))
    expected = [("v_3l7quTy4c2s.mp4", "Zumba", (10, 24500))]
    assert cuts(data, tmp_path / "activity_net.v1-3.min.json", "training") == expected
    assert cuts(data, tmp_path / "activity_net.v1-3.min.json", "validation") == []


def test_a_list_of_parts_beside_the_videos(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "link" / "parts.csv").write_text(
        f"path,start,end,split\n./day1//cam.mp4,0,10,train\nday1/cam.mp4,600,,train\n{tmp_path}/link/day2/cam.mp4,,,\n{tmp_path}/real/day3/cam.mp4,,,\nx.mp4,,,val\n"
    )
    listing = list_sources(open_data(str(tmp_path / "link" / "parts.csv")))
    assert [(source.key, source.cut) for source in listing.sources] == [
        ("day1%2Fcam%2Emp4", (0, 10_000)),
        ("day1%2Fcam%2Emp4", (600_000, None)),
        ("day2%2Fcam%2Emp4", None),  # as if its path were relative
        ("day3%2Fcam%2Emp4", None),
    ]
    assert listing.ignored == {"rows of split val": 1}
    (tmp_path / "link" / "parts.csv").write_text("path,start\na.jpg,0\nb.jpg,1\n")
    with pytest.raises(UserError, match=r"parts\.csv, line 3: start and end are for clips; b\.jpg is an image"):
        listed(tmp_path / "link" / "parts.csv")


def test_nested_classes_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a/abbey/00000001.jpg", "a/airfield/00000001.jpg", "b/balcony/exterior/00000001.jpg"]
    make(tmp_path / "data_large", *names)
    monkeypatch.chdir(tmp_path)
    program = next(text for text in fenced(DOCS / "sources.md", "python") if "nested" in text)
    exec(compile(program, "docs/sources.md", "exec"), {"__name__": "documented"})
    sources = listed(tmp_path / "data_large" / "nested.txt")
    assert {source.path: source.class_name for source in sources} == {name: name.rpartition("/")[0] for name in names}
    assert len({source.key for source in sources}) == 3
    assert set(classes(tmp_path / "data_large").values()) == {"a", "b"}


def sample(key: str, medium: str, **beside: str) -> dict[str, bytes]:
    return {f"{key}.{medium}": b"media", **{f"{key}.{extension}": text.encode() for extension, text in beside.items()}}


def test_webdataset_tars_of_others_have_the_class_of_their_cls_files(tmp_path: Path) -> None:
    video2dataset = sample("000000000", "mp4", json='{"key": "000000000"}', txt="a cat") | sample("000000001", "mp4")
    labeled = sample("7.x", "webp", cls="12\n") | sample("8", "jpg", cls="-1") | sample("run/9", "jpg", txt="running")
    (tmp_path / "video").mkdir()
    for number in range(2):
        (tmp_path / "video" / f"0000{number}.tar").write_bytes(tar_of(video2dataset))
    (tmp_path / "video" / "00000_stats.json").touch()
    assert [(source.path, source.key, source.class_name) for source in listed(tmp_path / "video")] == [
        ("00000.tar/000000000.mp4", "00000%2F000000000%2Emp4", ""),
        ("00000.tar/000000001.mp4", "00000%2F000000001%2Emp4", "00000"),  # nothing beside it says that it is a sample
        ("00001.tar/000000000.mp4", "00001%2F000000000%2Emp4", ""),
        ("00001.tar/000000001.mp4", "00001%2F000000001%2Emp4", "00001"),
    ]
    (tmp_path / "images.tar").write_bytes(tar_of(labeled))
    (tmp_path / "nested.tar").write_bytes(tar_of({"part 1.tar": tar_of(labeled)}))
    expected = {"7.x.webp": "12", "8.jpg": "", "run/9.jpg": "run"}
    assert classes(tmp_path / "images.tar") == expected
    assert classes(tmp_path / "nested.tar") == {f"part 1/{path}": name for path, name in expected.items()}


def test_a_folder_of_tars_is_as_a_tar_of_tars_and_as_the_folders_in_them(tmp_path: Path) -> None:
    tars = {f"n0000000{c}": {f"n0000000{c}_{i}.JPEG": b"x" for i in range(2)} | {"x.JPEG": b"y"} for c in (1, 2)}
    for name, files in tars.items():
        make(tmp_path / "folders", *(f"{name}/{file}" for file in files))
        (tmp_path / "tars" / "sub.d").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tars" / f"{name}.tar").write_bytes(tar_of(files))
    (tmp_path / "tar.tar").write_bytes(tar_of({f"{name}.tar": tar_of(files) for name, files in tars.items()}))
    made = [{(s.key, s.class_name) for s in listed(tmp_path / name)} for name in ("folders", "tars", "tar.tar")]
    assert made[0] == made[1] == made[2]
    make(tmp_path / "tars", "n3/a.JPEG")
    make(tmp_path / "tars", "d.tar/e.tar")
    listing = list_sources(open_data(str(tmp_path / "tars")))
    assert [source.path for source in listing.sources] == ["n3/a.JPEG"], "tars beside files are skipped"
    assert listing.ignored == {".tar": 3}
    (tmp_path / "tars" / "n3" / "a.JPEG").unlink()
    assert {s.path.split("/")[0] for s in listed(tmp_path / "tars")} == {"n00000001.tar", "n00000002.tar"}
