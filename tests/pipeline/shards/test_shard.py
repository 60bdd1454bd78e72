"""Writing one shard without Ray, with retries and errors."""

import errno
import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import PARTS
from pipeline.files import sha256_file
from pipeline.shards.decode import Inputs
from pipeline.shards.frames import extract_frames
from pipeline.shards.media import Media
from pipeline.shards.parts import read_index_part, read_part, read_rejects_part
from pipeline.shards.plan import make_plan
from pipeline.shards.segment_frames import LEFT_OUT
from pipeline.shards.shard import PLAN, ShardTask, write_shard
from pipeline.shards.sources import list_sources, open_data
from pipeline.shards.triplets import draw_triplets
from pipeline.spec import ClipSettings, FrameSettings, ImageSettings, TripletSettings
from pipeline.storage import Storage, open_storage
from tests.media import decode, jpeg, picture, write_clip, write_image, write_recording
from tests.pipeline.shards.test_tars import tar_of, tar_with


def one_shard(data: Path, out: Path, media: Media | None = None, **changes: Any) -> ShardTask:
    """A planned job with all inputs in shard 0."""
    storage, opened = open_storage(str(out)), open_data(str(data))
    with storage.atomic_write(PLAN) as path:
        plan = make_plan(list_sources(opened, media, keys="stem"), 0, 1000, path)
    inputs = Inputs(opened.root, opened.tar, plan.media, FrameSettings(), ImageSettings())
    return replace(ShardTask(inputs, storage, "shard", 0, "frames", TripletSettings()), **changes)


def cut_shard(data: Path, out: Path, *cuts: tuple[int, int | None], **clips: Any) -> ShardTask:
    """A planned job that cuts its inputs, which are all in shard 0."""
    storage, opened = open_storage(str(out)), open_data(str(data))
    listing = list_sources(opened, keys="stem")
    if cuts:
        listing.sources = iter([replace(source, cut=cut) for source in listing.sources for cut in cuts])
    with storage.atomic_write(PLAN) as path:
        make_plan(listing, 0, 1000, path)
    inputs = Inputs(opened.root, None, "clips", FrameSettings(), ImageSettings(), ClipSettings.model_validate(clips))
    return ShardTask(inputs, storage, "shard", 0, "frames", TripletSettings(per_clip=2))


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]


def contents(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in folder.iterdir() if p.suffix in (".tar", ".idx")}


def rejects(out: Storage) -> dict[str, tuple[str, str]]:
    rows = read_rejects_part(out, "shard-000000").to_pylist()
    return {row["source"]: (row["reason"], row["detail"]) for row in rows}


def test_a_clip_with_its_times(tmp_path: Path) -> None:
    clip = tmp_path / "data" / "riding" / "a.mp4"
    write_clip(clip, 5.0, seed=0)
    task = one_shard(tmp_path / "data", tmp_path / "out")
    write_shard(0, task)
    frames = extract_frames(clip, FrameSettings())
    result = members(tmp_path / "out" / "shard-000000.tar")
    facts = json.loads(result.pop("a.json"))
    assert result == {**{f"a.{i:02d}.jpg": frame for i, frame in enumerate(frames.jpegs)}, "a.cls": b"0"}
    assert facts == {
        "class_name": "riding",
        "fps": 2.0,
        "height": 144,
        "key": "a",
        "label": 0,
        "source": "riding/a.mp4",
        "times_s": frames.times_s,
        "width": 192,
    }


def test_images_from_a_nested_tar_are_the_same_as_from_folders(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / "data" / f"n{number % 2}" / f"image{number}.JPEG", seed=number)
    inner = {
        f"{folder.name}.tar": tar_of({file.name: file.read_bytes() for file in folder.iterdir()})
        for folder in (tmp_path / "data").iterdir()
    }
    (tmp_path / "train.tar").write_bytes(tar_of(inner))
    for name in ("data", "train.tar"):
        write_shard(0, one_shard(tmp_path / name, tmp_path / f"out-{name}"))
    assert contents(tmp_path / "out-data") == contents(tmp_path / "out-train.tar") != {}


def test_links_in_a_tar_are_samples_or_rejects(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", seed=0)
    a = (tmp_path / "a.jpg").read_bytes()
    linked = tar_with(("cat/a.jpg", a), ("dog/b.jpg", "../cat/a.jpg"), ("dog/c.jpg", "../../outside.jpg"))
    (tmp_path / "data.tar").write_bytes(linked)
    (tmp_path / "dog").mkdir()
    write_image(tmp_path / "dog" / "c.jpg", seed=1)  # beside the tar, not in it
    task = one_shard(tmp_path / "data.tar", tmp_path / "out")
    write_shard(0, task)
    result = members(tmp_path / "out" / "shard-000000.tar")
    assert {name: result[name] for name in result if name.endswith("jpg")} == {"a.jpg": a, "b.jpg": a}
    assert rejects(task.out) == {
        "dog/c.jpg": ("unreadable", "a link to outside.jpg, where the tar holds no file"),
    }


def test_clips_in_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shards.decode._PIECE_BYTES", 1000)
    write_clip(tmp_path / "a.mp4", 5.0, seed=0)
    (tmp_path / "clips.tar").write_bytes(tar_of({"riding/a.mp4": (tmp_path / "a.mp4").read_bytes()}))
    task = one_shard(tmp_path / "clips.tar", tmp_path / "out")
    write_shard(0, task)
    frames = extract_frames(tmp_path / "a.mp4", FrameSettings())
    assert members(tmp_path / "out" / "shard-000000.tar")["a.03.jpg"] == frames.jpegs[3]
    (tmp_path / "tars" / "part.1").mkdir(parents=True)
    (tmp_path / "clips.tar").rename(tmp_path / "tars" / "part.1" / "00000.TAR")
    task = one_shard(tmp_path / "tars", tmp_path / "again")
    write_shard(0, task)
    in_tars = members(tmp_path / "again" / "shard-000000.tar")
    assert in_tars["a.03.jpg"] == frames.jpegs[3]
    assert json.loads(in_tars["a.json"])["source"] == "part.1/00000.TAR/riding/a.mp4"


def test_folders_of_frames_are_packed_byte_for_byte_in_order_of_number(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "yoga" / "video.1"
    pictures = {f"{number}.jpg": jpeg(picture(96, 128, number)) for number in range(12)}
    folder.mkdir(parents=True)
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    (folder.parent / "short").mkdir()
    (folder.parent / "short" / "0.jpg").write_bytes(pictures["0.jpg"])
    (folder.parent / "broken").mkdir()
    for name, content in pictures.items():
        (folder.parent / "broken" / name).write_bytes(content[:700] if name == "5.jpg" else content)
    task = one_shard(tmp_path / "data", tmp_path / "out", "frames")
    write_shard(0, task)
    result = members(tmp_path / "out" / "shard-000000.tar")
    assert [result[f"video%2E1.{number:02d}.jpg"] for number in range(12)] == list(pictures.values())
    facts = json.loads(result["video%2E1.json"])
    assert (facts["encoding"], facts["times_s"][:3]) == ({"copied": 12}, [0.0, 0.5, 1.0])
    assert rejects(task.out)["yoga/short"] == ("too_short", "1 frame; min_frames is 8")
    reason, detail = rejects(task.out)["yoga/broken"]
    assert (reason, detail.startswith("frame 5: ")) == ("decode_error", True)


def test_frames_beside_other_pictures_must_be_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "yoga" / "clip"
    folder.mkdir(parents=True)
    pictures = {
        f"img_{number}.{'jpg' if number % 2 else 'jpeg'}": jpeg(picture(96, 128, number)) for number in range(12)
    }
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
        (folder / f"._{name}").write_bytes(b"AppleDouble")
        (folder / f"flow_x_{name}").write_bytes(content)
    task = one_shard(tmp_path / "data", tmp_path / "out", "frames")
    write_shard(0, task)
    kinds = r"12 of 'flow_x_img_\d+\.(jpeg|jpg)', 12 of 'img_\d+\.(jpeg|jpg)'"
    message = f"names of several kinds: {kinds}; choose with --frames.pattern"
    assert rejects(task.out) == {"yoga/clip": ("mixed_names", message)}
    settings = FrameSettings(pattern=r"img_\d+\.(jpeg|jpg)")
    write_shard(0, replace(task, inputs=replace(task.inputs, frames=settings)), retry=True)
    result = members(tmp_path / "out" / "shard-000000.tar")
    assert [result[f"clip.{number:02d}.jpg"] for number in range(12)] == list(pictures.values())


def test_triplets_are_frames_of_the_clip(tmp_path: Path) -> None:
    write_clip(tmp_path / "data" / "riding" / "a.mp4", 10.0, seed=0)
    task = one_shard(tmp_path / "data", tmp_path / "out", layout="triplets", triplets=TripletSettings(per_clip=3))
    write_shard(0, task)
    frames = extract_frames(tmp_path / "data" / "riding" / "a.mp4", FrameSettings())
    result = members(tmp_path / "out" / "shard-000000.tar")
    assert len(result) == 3 * 4
    for number, (past, current, future) in enumerate(draw_triplets("a", 20, 10.0, 0, task.triplets)):
        facts = json.loads(result[f"a-{number:02d}.json"])
        assert (facts["clip"], facts["frames"], facts["num_frames"]) == ("a", [past, current, future], 20)
        assert facts["times_s"] == [frames.times_s[frame] for frame in (past, current, future)]
        for name, frame in (("past", past), ("current", current), ("future", future)):
            assert result[f"a-{number:02d}.{name}.jpg"] == frames.jpegs[frame]
    rows = read_index_part(task.out, "shard-000000").to_pylist()
    tar = (tmp_path / "out" / "shard-000000.tar").read_bytes()
    spans = list(zip(rows[1]["frame_offset"], rows[1]["frame_size"], strict=True))
    names = ("past", "current", "future")
    assert [tar[start : start + size] for start, size in spans] == [result[f"a-01.{name}.jpg"] for name in names]


def test_first_input_of_a_key_that_decodes_is_the_sample(tmp_path: Path) -> None:
    for folder in "bcd":
        write_image(tmp_path / "data" / folder / "same.jpg", seed=ord(folder))
    (tmp_path / "data" / "a").mkdir()
    (tmp_path / "data" / "a" / "same.jpg").write_text("no picture")
    task = one_shard(tmp_path / "data", tmp_path / "out")
    write_shard(0, task)
    result = members(tmp_path / "out" / "shard-000000.tar")
    assert result["same.jpg"] == (tmp_path / "data" / "b" / "same.jpg").read_bytes()
    message = rejects(task.out)
    assert message.pop("a/same.jpg")[0] == "not_media"
    owner = ("duplicate_key", "the key same belongs to b/same.jpg")
    assert message == {"c/same.jpg": owner, "d/same.jpg": owner}


def test_an_input_that_disappears_is_a_reject(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "data" / "c" / f"{number}.jpg", seed=number)
    task = one_shard(tmp_path / "data", tmp_path / "out")
    (tmp_path / "data" / "c" / "1.jpg").unlink()
    write_shard(0, task)
    part = read_part(task.out, "shard-000000")
    assert part is not None
    assert (part.inputs, part.samples, part.reasons) == (3, 2, {"unreadable": 1})
    assert rejects(task.out) == {"c/1.jpg": ("unreadable", "no such file")}


def test_a_shard_without_samples_leaves_no_tar(tmp_path: Path) -> None:
    (tmp_path / "data" / "c").mkdir(parents=True)
    (tmp_path / "data" / "c" / "x.jpg").touch()
    task = one_shard(tmp_path / "data", tmp_path / "out")
    write_shard(0, task)
    assert contents(tmp_path / "out") == {}
    part = read_part(task.out, "shard-000000")
    assert part is not None
    assert (part.samples, part.bytes, part.reasons) == (0, 0, {"unreadable": 1})


def test_a_finished_shard_is_kept_and_an_incomplete_one_rewritten(tmp_path: Path) -> None:
    write_image(tmp_path / "data" / "c" / "x.jpg", seed=0)
    task = one_shard(tmp_path / "data", tmp_path / "out")
    write_shard(0, task)
    before = contents(tmp_path / "out")
    (tmp_path / "data" / "c" / "x.jpg").unlink()
    write_shard(0, task)
    assert contents(tmp_path / "out") == before
    write_image(tmp_path / "data" / "c" / "x.jpg", seed=0)
    tar = tmp_path / "out" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    assert read_part(task.out, "shard-000000") is None
    write_shard(0, task)
    assert contents(tmp_path / "out") == before


def test_retry_gives_the_bytes_of_a_fresh_run_and_decodes_only_rejects(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number, name in enumerate(["0", "1", "2", "3", "a\\xe9", os.fsdecode(b"a\xe9")]):
        write_image(data / "c" / f"{name}.jpg", seed=number)
    write_image(data / "b" / "3.jpg", seed=33)
    fresh = one_shard(data, tmp_path / "fresh")
    write_shard(0, fresh)
    good = {path: path.read_bytes() for path in (data / "c" / "1.jpg", data / "b" / "3.jpg")}
    for path in good:
        path.write_text("broken download")
    task = one_shard(data, tmp_path / "out")
    write_shard(0, task)
    assert set(rejects(task.out)) == {"c/1.jpg", "b/3.jpg"}  # c/3.jpg took the key of b/3.jpg
    stamp = (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns
    write_shard(0, task, retry=True)
    assert (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns == stamp, "nothing gained, nothing rewritten"
    for path, content in good.items():
        path.write_bytes(content)
    (data / "c" / "0.jpg").unlink()  # a sample, not a reject: it is copied from the shard
    write_shard(0, task, retry=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert rejects(task.out) == rejects(fresh.out)


def test_segments_know_their_parent_and_times(tmp_path: Path) -> None:
    write_recording(tmp_path / "data" / "walk" / "a.mkv", 47)
    task = cut_shard(tmp_path / "data", tmp_path / "out", length=5)
    write_shard(0, task)
    rows = read_index_part(task.out, "shard-000000").to_pylist()
    times = {"a_000000": (0.0, 5.0), "a_000001": (5.0, 10.0)}
    assert {row["key"]: (row["start_s"], row["end_s"]) for row in rows} == times
    assert {(row["parent"], row["source"], row["duration_s"]) for row in rows} == {("a", "walk/a.mkv", 5.0)}
    facts = json.loads(members(tmp_path / "out" / "shard-000000.tar")["a_000001.json"])
    assert (facts["parent"], facts["start_s"], facts["end_s"], facts["times_s"][:2]) == ("a", 5.0, 10.0, [0.0, 0.5])
    part = read_part(task.out, "shard-000000")
    assert part is not None
    assert part.left_out == {LEFT_OUT: 1}
    triplets = replace(task, layout="triplets", out=open_storage(str(tmp_path / "triplets")))
    shutil.copytree(tmp_path / "out" / PARTS, tmp_path / "triplets" / PARTS)
    (tmp_path / "triplets" / PARTS / "shard-000000.parquet").unlink()
    write_shard(0, triplets)
    rows = read_index_part(triplets.out, "shard-000000").to_pylist()
    assert [row["key"] for row in rows] == [f"{key}-{number:02d}" for key in times for number in range(2)]
    assert json.loads(members(tmp_path / "triplets" / "shard-000000.tar")["a_000001-01.json"])["clip"] == "a_000001"


def test_a_retry_copies_good_segments_and_gains_the_others(tmp_path: Path) -> None:
    clip = write_recording(tmp_path / "data" / "walk" / "a.mkv", 160)
    write_shard(0, cut_shard(tmp_path / "data", tmp_path / "fresh", length=5))
    good = clip.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2 : len(good) // 2 + 400] = bytes(400)
    clip.write_bytes(damaged)
    task = cut_shard(tmp_path / "data", tmp_path / "out", length=5)
    write_shard(0, task)
    lost = read_rejects_part(task.out, "shard-000000").to_pylist()
    tar = tmp_path / "out" / "shard-000000.tar"
    kept, stamp = members(tar), tar.stat().st_mtime_ns
    assert 1 <= len(lost) < 8
    assert all(row["end_s"] - row["start_s"] == 5 for row in lost)
    write_shard(0, task, retry=True)
    assert tar.stat().st_mtime_ns == stamp, "nothing gained, nothing rewritten"
    clip.write_text("broken")
    write_shard(0, task, retry=True)
    assert (members(tar), tar.stat().st_mtime_ns) == (kept, stamp), "samples are never lost"
    clip.write_bytes(good)
    write_shard(0, task, retry=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert rejects(task.out) == {}


def test_spans_with_the_same_times_are_one_sample(tmp_path: Path) -> None:
    write_recording(tmp_path / "data" / "walk" / "a.mkv", 47)
    task = cut_shard(tmp_path / "data", tmp_path / "out", (0, 5000), (2500, 7500), (0, 5000))
    write_shard(0, task)
    assert [row["key"] for row in read_index_part(task.out, "shard-000000").to_pylist()] == ["a_0_5000", "a_2500_7500"]
    (row,) = read_rejects_part(task.out, "shard-000000").to_pylist()
    assert (row["reason"], row["start_s"], row["end_s"]) == ("duplicate_key", 0.0, 5.0)


def test_each_span_of_a_file_that_cannot_be_read_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "data" / "walk").mkdir(parents=True)
    (tmp_path / "data" / "walk" / "a.mkv").write_text("broken")
    task = cut_shard(tmp_path / "data", tmp_path / "out", (0, 5000), (2500, None))
    write_shard(0, task)
    rows = read_rejects_part(task.out, "shard-000000").to_pylist()
    assert [(row["reason"], row["start_s"], row["end_s"]) for row in rows] == [
        ("not_media", 0.0, 5.0),
        ("not_media", 2.5, None),
    ]


def test_a_retry_keeps_the_largest_timestamp_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "data" / "c" / "uneven.mp4", 5.0, seed=0, fps=7)
    write_clip(tmp_path / "data" / "c" / "even.mp4", 5.0, seed=1, fps=12)
    even = (tmp_path / "data" / "c" / "even.mp4").read_bytes()
    (tmp_path / "data" / "c" / "even.mp4").write_text("broken download")
    task = one_shard(tmp_path / "data", tmp_path / "out")
    write_shard(0, task)
    (tmp_path / "data" / "c" / "even.mp4").write_bytes(even)
    write_shard(0, task, retry=True)
    part = read_part(task.out, "shard-000000")
    assert part is not None
    assert part.samples == 2
    assert 0 < part.max_timestamp_error_s < 1 / 7


def test_a_full_disk_is_an_error_and_leaves_no_partial_file(tmp_path: Path, small_disk: Path) -> None:
    for number in range(24):
        path = tmp_path / "data" / "c" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(np.random.default_rng(number).integers(0, 256, (300, 400, 3), np.uint8)))
    task = one_shard(tmp_path / "data", small_disk)
    with pytest.raises(OSError) as failed:
        write_shard(0, task)
    assert failed.value.errno == errno.ENOSPC
    assert [p.name for p in small_disk.iterdir()] == [PARTS]
    assert read_part(task.out, "shard-000000") is None


def test_odd_file_names(tmp_path: Path) -> None:
    names = ["-dash", "with space", "new\nline", "per%cent", "ä", os.fsdecode(b"latin-\xe4"), "a..b", "%03d", "*"]
    for number, name in enumerate(names):
        write_clip(tmp_path / "clip.mp4", 4.5, seed=number, size=(64, 48), fps=4)
        (tmp_path / "data" / "c").mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "clip.mp4", tmp_path / "data" / "c" / f"{name}.mp4")
    task = one_shard(tmp_path / "data", tmp_path / "out")
    write_shard(0, task)
    rows = read_index_part(task.out, "shard-000000").to_pylist()
    assert rejects(task.out) == {}
    assert len({row["key"] for row in rows}) == len(names)
    assert "c/latin-\\xe4.mp4" in {row["source"] for row in rows}
    pictures = members(tmp_path / "out" / "shard-000000.tar")
    assert all(decode(pictures[f"{row['key']}.00.jpg"]).shape == (48, 64, 3) for row in rows)
    assert pq.read_table(tmp_path / "out" / PARTS / "shard-000000.parquet").num_rows == len(names)
