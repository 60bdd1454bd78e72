"""The dataset that a job leaves, and what ends a job early."""

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.dataset import INDEX_SCHEMA, ShardDataset, read_manifest
from pipeline.files import sha256_file
from pipeline.settings import UserError
from pipeline.shards.__main__ import main
from pipeline.verify.__main__ import VerifyCommand
from pipeline.verify.__main__ import main as run_verify
from tests.conftest import write_dataset
from tests.media import decode, write_recording
from tests.pipeline.shards.jobs import contents, shards_command


def test_index_spans_are_the_frames_in_the_tars(clip_dataset: Path) -> None:
    dataset = ShardDataset(clip_dataset)
    rows = pq.read_table(clip_dataset / "index.parquet").to_pylist()
    assert len(dataset) == len(rows) == 6
    for number, row in enumerate(rows):
        with tarfile.open(clip_dataset / row["shard"]) as tar:
            names = [name for name in tar.getnames() if name.startswith(row["key"] + ".") and name.endswith(".jpg")]
            members = [tar.extractfile(name) for name in names]
            expected = [member.read() for member in members if member is not None]
        assert row["num_frames"] == len(expected)
        assert [dataset.frame(number, i).tobytes() for i in range(len(expected))] == expected
        assert decode(expected[0]).shape[:2] == (row["height"], row["width"])


def test_rejects_have_reasons_and_counts_add_up(clip_dataset: Path) -> None:
    rejects = {row["source"]: row["reason"] for row in pq.read_table(clip_dataset / "rejects.parquet").to_pylist()}
    assert rejects == {"riding/short_000001_000002.mp4": "too_short", "riding/page.mp4": "not_media"}
    manifest = read_manifest(clip_dataset)
    assert (manifest.inputs, manifest.samples, manifest.rejects) == (8, 6, 2)
    assert manifest.classes == ["riding", "waving hands"]
    for shard in manifest.shards:
        assert sha256_file(clip_dataset / shard.file) == shard.sha256
    report = json.loads((clip_dataset / "job.json").read_text())
    assert set(report["stage_seconds"]) == {"check", "decode", "fetch", "write"}


REAL_CLIPS = (
    "Archery/paddlevideo_example.avi",
    "cartwheel/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",  # too short
    "clean and jerk/v_GGSY1Qvo990.mp4",
    "flipping pancake/flipping_a_pancake.mkv",
    "hitting baseball/hitting_baseball.mp4",
    "unknown/big_buck_bunny_0_30.webm",
    "unknown/internvid_example1.mp4",
    "using segway/SOX5yA1l24A.mp4",
)
"""One or more of each container; all 36 take too long."""


def opens_with_pillow_and_dali(folder: Path) -> int:
    """Decode every frame of a dataset with both; returns their number."""
    from nvidia.dali import fn, pipeline_def, types

    dataset = ShardDataset(folder)
    frames = [(row, frame) for row in range(len(dataset)) for frame in range(int(dataset.num_frames[row]))]
    for row, frame in frames:
        assert decode(dataset.frame(row, frame)).shape[:2] == (dataset.height[row], dataset.width[row])
    batches = iter(range(0, len(frames), 64))

    def feed() -> list[np.ndarray]:
        start = next(batches)
        return [dataset.frame(*position) for position in frames[start : start + 64]]

    @pipeline_def(batch_size=64, num_threads=2, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> object:
        encoded = fn.external_source(source=feed, batch=True, dtype=types.UINT8, ndim=1)
        return fn.decoders.image(encoded, output_type=types.RGB)

    pipeline = graph()
    pipeline.build()
    shapes = []
    for _ in range(0, len(frames), 64):
        shapes += [image.shape()[:2] for image in pipeline.run()[0]]
    expected = [[dataset.height[row], dataset.width[row]] for row, _ in frames]
    assert np.array_equal(shapes, expected)
    return len(frames)


@pytest.mark.slow
def test_every_frame_of_real_clips_opens(real_data: Path, tmp_path: Path) -> None:
    for name in REAL_CLIPS:
        link = tmp_path / "data" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real_data / "videos" / name)
    out = write_dataset(tmp_path / "data", tmp_path / "out", samples_per_shard=4)
    manifest = read_manifest(out)
    rejects = pq.read_table(out / "rejects.parquet")["reason"].to_pylist()
    assert (manifest.inputs, manifest.samples, rejects) == (8, 7, ["too_short"])
    assert opens_with_pillow_and_dali(out) == manifest.frames


@pytest.mark.slow
def test_every_real_image_opens_and_broken_ones_are_rejects(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "good").symlink_to(real_data / "images")
    (tmp_path / "data" / "odd").symlink_to(real_data / "odd" / "images")
    out = write_dataset(tmp_path / "data", tmp_path / "out", samples_per_shard=200)
    rejects = {row["source"]: row["reason"] for row in pq.read_table(out / "rejects.parquet").to_pylist()}
    assert rejects == {
        "odd/empty.JPEG": "unreadable",
        "odd/n02094258_truncated.JPEG": "decode_error",
        "odd/text.JPEG": "not_media",
    }
    manifest = read_manifest(out)
    assert opens_with_pillow_and_dali(out) == manifest.samples == manifest.inputs - 3


def test_too_many_rejects_fail_the_job_and_keep_the_dataset(
    clip_tree: Path, clip_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(clip_dataset, out)
    pq.write_table(pq.read_table(out / "rejects.parquet"), out / "rejects.parquet", row_group_size=1)
    before = contents(out)
    command = shards_command(clip_tree, out, samples_per_shard=3)
    with pytest.raises(UserError, match=r"2 of 8 inputs were rejected, more than max_reject_fraction = 0\.1"):
        main(command.model_copy(update={"max_reject_fraction": 0.1}))
    assert contents(out) == before
    message = capsys.readouterr().out
    assert "  riding/short_000001_000002.mp4: too_short, " in message
    assert "past and future frames lie 0.5 to 1.5 s from the current one" in message
    assert "note: 1 of 7 clips are shorter than 4 s: in a new OUT, --frames.fps 14 keeps 100 %" in message
    assert "not_media, " in message, "the rejects of all shards are shown"


def test_a_job_that_cuts_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rejects are counted by segment, the dataset is intact, and a retry gives what a fresh job gives."""
    clip = write_recording(tmp_path / "data" / "walk" / "a.mkv", 160)
    good, options = clip.read_bytes(), {"clips": {"length": 5}, "keys": "stem"}
    write_recording(tmp_path / "data" / "run" / "b.mkv", 60)
    main(shards_command(tmp_path / "data", tmp_path / "fresh", **options))
    clip.write_bytes(good[: len(good) // 2])
    command = shards_command(tmp_path / "data", tmp_path / "out", **options)
    with pytest.raises(UserError, match=r"5 of 11 segments were rejected, more than max_reject_fraction = 0;"):
        main(command.model_copy(update={"max_reject_fraction": 0.0}))
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.inputs, len(manifest.shards), manifest.settings["clips"]["length"]) == (2, 2, 5)
    assert manifest.candidates == manifest.samples + manifest.rejects == 11
    verify = VerifyCommand(dataset=str(tmp_path / "out"), workers=1)
    assert run_verify(verify) == 0
    clip.write_bytes(good)
    main(command.model_copy(update={"retry_rejects": True}))
    assert {**contents(tmp_path / "out"), "rejects.parquet": ""} == {
        **contents(tmp_path / "fresh"),
        "rejects.parquet": "",
    }
    rows = pq.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    rows[0]["parent"], rows[1]["start_s"] = "other", 0.25
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), tmp_path / "out" / "index.parquet")
    capsys.readouterr()
    assert run_verify(verify) == 1
    findings = capsys.readouterr().out
    assert "index.parquet has the parent 'other' for the key" in findings
    assert "index.parquet has start_s 0.25; json says" in findings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": {"stride": 5}}, "clips.stride needs clips.length"),
        ({"clips": {"length": 3}}, "clips.length = 3 gives 6 frames at frames.fps = 2; allowed are"),
        ({"clips": {"length": 5}, "media": "frames"}, "need video files; media is frames"),
        (
            {"clips": {"length": 5, "stride": 1.3, "scenes": True}},
            "clips.stride must be whole frames; 1.3 s are 2.6 frames at frames.fps = 2",
        ),
        (
            {"clips": {"length": 5, "stride": 4.999}, "frames": {"fps": 29.97}},
            "clips.stride must be frames or a multiple of 1/2, 1/3, ... or 1/250 of a frame",
        ),
    ],
)
def test_options_of_cutting_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        shards_command(tmp_path, tmp_path / "out", **options)


def test_images_are_not_cut(image_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"clips\.length and clips\.scenes need clips; .* holds images"):
        main(shards_command(image_tree, tmp_path / "out", clips={"length": 10}))


def test_triplets_and_images_do_not_go_together(image_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layout = triplets needs clips"):
        main(shards_command(image_tree, tmp_path / "out", layout="triplets"))


def test_unreadable_inputs_have_their_own_message(image_tree: Path, tmp_path: Path) -> None:
    csv = tmp_path / "none.csv"
    with pytest.raises(UserError, match=f"cannot read {csv}: No such file or directory"):
        main(shards_command(image_tree, tmp_path / "out", annotations=str(csv)))
    assert list((tmp_path / "out").iterdir()) == [], "nothing has begun"


def test_a_full_disk_ends_in_one_sentence_and_room_completes_the_job(
    image_tree: Path, image_dataset: Path, small_disk: Path
) -> None:
    out, filler = small_disk / "out", small_disk / "filler"
    largest = max(path.stat().st_size for path in image_dataset.glob("*.tar"))
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - largest - 40_000))  # room for the plan and one shard
    with pytest.raises(UserError, match=f"cannot read or write {out}.*: No space left on device; finished parts are"):
        main(shards_command(image_tree, out, samples_per_shard=4))
    assert not (out / "dataset.json").exists()
    assert not list(out.glob(".tmp-*"))
    filler.unlink()
    main(shards_command(image_tree, out, samples_per_shard=4))
    assert contents(out) == contents(image_dataset)


def test_an_unwritable_output_is_named(clip_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "out", tmp_path / "file"):
        with pytest.raises(UserError, match=f"cannot write to the output folder {out}"):
            write_dataset(clip_tree, out, samples_per_shard=2)


def test_damaged_datasets_are_named(clip_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished shard dataset"):
        ShardDataset(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(clip_dataset, copy)
    shard = copy / read_manifest(copy).shards[0].file
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(UserError, match=shard.name):
        ShardDataset(copy)
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        ShardDataset(copy)
