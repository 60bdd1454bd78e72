import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from pipeline.dataset import ShardDataset, read_manifest
from pipeline.files import sha256_file
from pipeline.settings import UserError
from pipeline.shards.__main__ import ShardsCommand, main
from pipeline.shards.frames import FrameSettings, extract_frames
from pipeline.shards.job import check_ray_address
from tests.conftest import write_dataset
from tests.media import decode, write_clip
from tests.processes import heed_ctrl_c, left_in_session


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_a_sample_is_a_clip_that_webdataset_reads(clip_dataset: Path, clip_tree: Path) -> None:
    tars = sorted(str(path) for path in clip_dataset.glob("*.tar"))
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    assert len(samples) == 6
    sample = samples["-abcdefghij_000001_000007"]
    frames = extract_frames(clip_tree / "riding" / "-abcdefghij_000001_000007.mp4", FrameSettings())
    assert [sample[f"{i:02d}.jpg"] for i in range(len(frames))] == frames
    assert sample["cls"] == b"0"
    facts = json.loads(sample["json"])
    assert facts["class_name"] == "riding"
    assert facts["times_s"] == [i / 2 for i in range(12)]
    assert "with%2Edot%20and%20space" in samples


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


def test_dali_reads_the_shards_with_the_written_index(image_dataset: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    tars = sorted(str(path) for path in image_dataset.glob("*.tar"))

    @pipeline_def(batch_size=12, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> object:
        jpeg, label = fn.readers.webdataset(  # type: ignore[misc]
            paths=tars,
            index_paths=[tar.replace(".tar", ".idx") for tar in tars],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
        )
        return fn.decoders.image(jpeg), label

    pipeline = graph()
    pipeline.build()
    outputs = pipeline.run()
    assert outputs is not None
    images, labels = outputs
    dataset = ShardDataset(image_dataset)
    assert [int(bytes(labels.at(i))) for i in range(12)] == dataset.label.tolist()
    for row in range(12):
        assert np.abs(images.at(row).astype(int) - decode(dataset.frame(row, 0))).max() <= 4


def test_rejects_have_reasons_and_counts_add_up(clip_dataset: Path) -> None:
    rejects = {row["source"]: row["reason"] for row in pq.read_table(clip_dataset / "rejects.parquet").to_pylist()}
    assert rejects == {"riding/short_000001_000002.mp4": "too_short", "riding/page.mp4": "decode_error"}
    manifest = read_manifest(clip_dataset)
    assert (manifest.inputs, manifest.samples, manifest.rejects) == (8, 6, 2)
    assert manifest.classes == ["riding", "waving hands"]
    for shard in manifest.shards:
        assert sha256_file(clip_dataset / shard.file) == shard.sha256


def opens_with_pillow_and_dali(folder: Path) -> int:
    """Decode every frame of a dataset with both; returns how many there were."""
    from nvidia.dali import fn, pipeline_def, types

    dataset = ShardDataset(folder)
    places = [(row, frame) for row in range(len(dataset)) for frame in range(int(dataset.num_frames[row]))]
    for row, frame in places:
        assert decode(dataset.frame(row, frame)).shape[:2] == (dataset.height[row], dataset.width[row])
    batches = iter(range(0, len(places), 64))

    def feed() -> list[np.ndarray]:
        start = next(batches)
        return [dataset.frame(*place) for place in places[start : start + 64]]

    @pipeline_def(batch_size=64, num_threads=2, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> object:
        encoded = fn.external_source(source=feed, batch=True, dtype=types.UINT8, ndim=1)
        return fn.decoders.image(encoded, output_type=types.RGB)

    pipeline = graph()
    pipeline.build()
    shapes = []
    for _ in range(0, len(places), 64):
        shapes += [image.shape()[:2] for image in pipeline.run()[0]]
    expected = [[dataset.height[row], dataset.width[row]] for row, _ in places]
    assert np.array_equal(shapes, expected)
    return len(places)


@pytest.mark.slow
def test_every_frame_of_real_clips_opens(real_clip_dataset: Path) -> None:
    manifest = read_manifest(real_clip_dataset)
    rejects = pq.read_table(real_clip_dataset / "rejects.parquet")["reason"].to_pylist()
    assert (manifest.inputs, manifest.samples, rejects) == (36, 33, ["too_short"] * 3)
    assert opens_with_pillow_and_dali(real_clip_dataset) == manifest.frames


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
        "odd/text.JPEG": "decode_error",
    }
    manifest = read_manifest(out)
    assert opens_with_pillow_and_dali(out) == manifest.samples == manifest.inputs - 3


def test_too_many_rejects_fail_the_job_and_keep_the_dataset(clip_tree: Path, tmp_path: Path) -> None:
    command = ShardsCommand(data=clip_tree, out=tmp_path / "out", workers=1, max_reject_fraction=0.1)
    with pytest.raises(UserError, match=r"2 of 8 inputs were rejected, more than max_reject_fraction = 0\.1"):
        main(command)
    assert read_manifest(tmp_path / "out").samples == 6


@pytest.mark.slow
def test_killed_job_continues_to_the_same_bytes(tmp_path: Path) -> None:
    for number in range(24):
        write_clip(tmp_path / "data" / "class" / f"clip{number}.mp4", seconds=8.0, seed=number, size=(480, 360))
    undisturbed = write_dataset(tmp_path / "data", tmp_path / "undisturbed", samples_per_shard=2)
    out = tmp_path / "killed"
    arguments = ["--data", str(tmp_path / "data"), "--out", str(out), "--samples_per_shard", "2", "--workers", "2"]
    command = [sys.executable, "-m", "pipeline.shards", *arguments]
    job = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob(".parts/*.parquet"))) < 3:
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (out / "dataset.json").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    subprocess.run(command, check=True, capture_output=True)
    assert contents(out) == contents(undisturbed)
    kept = [name for name, mtime in finished.items() if (out / name).stat().st_mtime_ns == mtime]
    assert len(kept) >= 3


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_file_and_no_process(clip_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(clip_tree), "--out", str(out), "--samples_per_shard", "1", "--max_reject_fraction", "1"]
    command = [sys.executable, "-m", "pipeline.shards", *arguments]
    job = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("shard-*.tar")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130, said
    assert b"Traceback" not in said
    assert not list(out.glob(".tmp-*"))
    assert left_in_session(job.pid) == []
    for tar in out.glob("shard-*.tar"):
        with tarfile.open(tar) as opened:
            assert opened.getnames()


def test_finished_dataset_is_left_alone_and_foreign_folders_refused(
    clip_tree: Path, clip_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(clip_dataset)
    write_dataset(clip_tree, clip_dataset, samples_per_shard=3)
    assert "already there" in capsys.readouterr().out
    assert contents(clip_dataset) == before
    with pytest.raises(UserError, match="other inputs or settings"):
        write_dataset(clip_tree, clip_dataset, samples_per_shard=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"):
        write_dataset(clip_tree, tmp_path / "mine", samples_per_shard=2)


def test_output_that_cannot_be_written_is_named(clip_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the output folder"):
        write_dataset(clip_tree, tmp_path / "file" / "out", samples_per_shard=2)


def test_damaged_datasets_are_named(clip_dataset: Path, tmp_path: Path) -> None:
    import shutil

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


def test_wrong_ray_address_is_named_at_once() -> None:
    check_ray_address("")
    check_ray_address("auto")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(UserError, match=f"no Ray cluster answers at RAY_ADDRESS = {address}"):
            check_ray_address(address)
