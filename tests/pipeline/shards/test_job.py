import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import ShardDataset, read_manifest
from pipeline.files import sha256_file
from pipeline.settings import UserError
from pipeline.shards.__main__ import main
from pipeline.shards.command import ShardsCommand
from pipeline.shards.job import JOB, _begin, _task
from pipeline.shards.parts import read_part
from pipeline.shards.shard import write_shard
from pipeline.shards.versions import writer_versions
from pipeline.storage import open_storage
from tests.conftest import write_dataset
from tests.media import decode, jpeg, write_image
from tests.processes import heed_ctrl_c, in_session, left_in_session


def contents(folder: Path) -> dict[str, str]:
    """What must not differ between runs: all but the report."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != "job.json"}


def job_command(data: Path | str, out: Path | str, *options: str) -> list[str]:
    arguments = ["--data", str(data), "--out", str(out), "--samples_per_shard", "2", *options]
    return [sys.executable, "-m", "pipeline.shards", *arguments]


def wait_for_parts(out: Path, count: int, job: "subprocess.Popen[Any]") -> None:
    deadline = time.monotonic() + 240
    while len(list(out.glob(".parts/shard-??????.parquet"))) < count:
        assert job.poll() is None, "the job ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wanted(data: Path | str, out: Path | str, **options: Any) -> ShardsCommand:
    return ShardsCommand(data=str(data), out=str(out), workers=1, max_reject_fraction=1, **options)


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
        "odd/text.JPEG": "not_media",
    }
    manifest = read_manifest(out)
    assert opens_with_pillow_and_dali(out) == manifest.samples == manifest.inputs - 3


@pytest.mark.usefixtures("ray_here")
def test_too_many_rejects_fail_the_job_and_keep_the_dataset(
    clip_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"2 of 8 inputs were rejected, more than max_reject_fraction = 0\.1"):
        main(
            ShardsCommand(data=str(clip_tree), out=str(tmp_path / "out"), samples_per_shard=1, max_reject_fraction=0.1)
        )
    assert read_manifest(tmp_path / "out").samples == 6
    message = capsys.readouterr().out
    assert "  riding/short_000001_000002.mp4: too_short, " in message
    assert "not_media, " in message, "the rejects of all shards are shown"


@pytest.mark.usefixtures("ray_here")
def test_frames_taken_for_images_are_told_how_to_be_taken(tmp_path: Path) -> None:
    for clip in range(4):
        write_image(tmp_path / "data" / "riding" / f"clip{clip}" / "00000.jpg", seed=clip)
    command = wanted(tmp_path / "data", tmp_path / "out").model_copy(update={"max_reject_fraction": 0.25})
    with pytest.raises(UserError, match=r"3 of 4 inputs were rejected.* Take them with --media frames"):
        main(command)


@pytest.mark.slow
def test_killed_job_continues_to_the_same_bytes_even_if_inputs_vanish(slow_job: Any, tmp_path: Path) -> None:
    data, undisturbed = slow_job
    out, link = tmp_path / "killed", tmp_path / "data"
    link.symlink_to(data)
    job = subprocess.Popen(
        job_command(link, out, "--workers", "1"), start_new_session=True, stdout=subprocess.DEVNULL, stderr=-3
    )
    wait_for_parts(out, 3, job)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (out / "dataset.json").exists()
    (out / ".tmp-shard-000000.tar-half").write_bytes(b"half")
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    again = subprocess.run(job_command(link, out, "--workers", "2"), check=True, capture_output=True, text=True)
    assert "continuing the job" in again.stdout
    assert contents(out) == contents(undisturbed)
    kept = [name for name, mtime in finished.items() if (out / name).stat().st_mtime_ns == mtime]
    assert len(kept) >= 3


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_file_and_no_process(slow_job: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = subprocess.Popen(
        job_command(slow_job[0], out, "--workers", "1"),
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    wait_for_parts(out, 1, job)
    with pytest.raises(UserError, match=f"another job is writing to {out}"):
        main(wanted(slow_job[0], out, samples_per_shard=2))
    (out / ".tmp-shard-000009.tar-half").touch()  # as a task leaves it that dies with its worker
    os.killpg(job.pid, signal.SIGINT)
    _, message = job.communicate(timeout=60)
    assert job.returncode == 130, message
    assert b"Traceback" not in message
    assert not list(out.glob(".tmp-*"))
    assert left_in_session(job.pid) == []
    for tar in out.glob("shard-*.tar"):
        with tarfile.open(tar) as opened:
            assert opened.getnames()


@pytest.mark.slow
def test_workers_that_are_killed_while_ray_starts_stop_nothing(image_tree: Path, tmp_path: Path) -> None:
    """As the kernel kills them where memory is short. Nothing stays in HOME, nor in a TMPDIR too long for sockets."""
    home, tmpdir = tmp_path / "home", tmp_path / "scheduler" / ("0123456789" * 10)
    home.mkdir()
    tmpdir.mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(tmpdir)}
    environment["RAY_worker_register_timeout_seconds"] = "5"  # then Ray starts others in their place
    command = job_command(image_tree, tmp_path / "out", "--workers", "2")
    killed, deadline = set[int](), time.monotonic() + 120
    with subprocess.Popen(command, env=environment, start_new_session=True) as job:
        try:
            while job.poll() is None and len(killed) < 2 and time.monotonic() < deadline:
                for process, message in in_session(job.pid).items():
                    if "default_worker.py" in message and "raylet/raylet" not in message and process not in killed:
                        killed.add(process)
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(process, signal.SIGKILL)
            assert job.wait(timeout=120) == 0
        finally:
            for process in in_session(job.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
    assert killed
    assert read_manifest(tmp_path / "out").samples == 12
    assert list(home.rglob("*")) == list(tmpdir.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "started"), [(signal.SIGTERM, "gcs_server"), (signal.SIGINT, "raylet/raylet")])
def test_signals_while_ray_starts_end_in_one_line(number: int, started: str, image_tree: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as tmpdir:
        job = subprocess.Popen(
            job_command(image_tree, tmp_path / "out", "--workers", "1"),
            env={**os.environ, "TMPDIR": tmpdir},
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        while not any(started in message for message in in_session(job.pid).values()):
            assert job.poll() is None
        os.kill(job.pid, number)
        _, message = job.communicate(timeout=60)
        assert job.returncode == 130, message
        assert message.splitlines()[-1] == "interrupted; files that were finished are kept"
        assert "Traceback" not in message
        assert "***" not in message, "no stack of C++ functions"
        assert left_in_session(job.pid) == []
        assert list(Path(tmpdir).iterdir()) == []


def test_finished_dataset_is_left_alone_and_foreign_folders_refused(
    clip_tree: Path, clip_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(clip_dataset)
    write_dataset(clip_tree, clip_dataset, samples_per_shard=3)
    assert "already there" in capsys.readouterr().out
    assert contents(clip_dataset) == before
    with pytest.raises(UserError, match=r"settings \(samples_per_shard is 3 there, 2 now\): choose"):
        write_dataset(clip_tree, clip_dataset, samples_per_shard=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"):
        write_dataset(clip_tree, tmp_path / "mine", samples_per_shard=2)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]  # noqa: PTH208


def test_unfinished_job_of_other_settings_is_refused_by_their_names(image_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".parts").mkdir(parents=True)
    identity = wanted(image_tree, out).identity() | {"seed": 7}
    identity["frames"]["short_side"] = 128
    job = {"identity": identity, "plan": {}}
    (out / ".parts" / "job.json").write_text(json.dumps(job))
    differing = r"seed is 7 there, 0 now; frames\.short_side is 128 there, 256 now"
    with pytest.raises(UserError, match=rf"an unfinished job of other inputs or settings \({differing}"):
        main(wanted(image_tree, out))


def begin(command: ShardsCommand, **recorded: str) -> Path:
    """Leave an unfinished job, with other places recorded in it if asked; returns its output folder."""
    out = open_storage(command.out)
    _begin(command, out, writer_versions(), None)
    job = json.loads(out.read(JOB))
    job["identity"].update(recorded)
    out.write(JOB, json.dumps(job).encode())
    return Path(command.out)


def test_an_unfinished_job_goes_on_however_its_data_is_spelled(
    image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(image_tree, data)
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "list.txt").write_text("".join(f"data/{path.relative_to(data)}\n" for path in data.rglob("*.JPEG")))
    monkeypatch.chdir(tmp_path)
    spellings = [f"{data}/", f"{data}/n00000000/..", "data", "./data/.", "link", f"file://{data}/"]
    begin(wanted(data, out))
    for spelled in spellings:
        command = wanted(spelled, out)
        assert _begin(command, open_storage(command.out), writer_versions(), None).inputs == 12
    for recorded in (*spellings, "/not/there/any/more", "elsewhere"):  # by earlier versions: as it was typed
        command = wanted(data, begin(wanted(data, tmp_path / "old"), data=recorded))
        assert _begin(command, open_storage(command.out), writer_versions(), None).inputs == 12
        shutil.rmtree(tmp_path / "old")
    data.rename(tmp_path / "moved")
    command, storage = wanted("moved/", out), open_storage(str(out))
    plan = _begin(command, storage, writer_versions(), None)
    assert "continuing the job" in capsys.readouterr().out
    write_shard(0, _task(command, storage, plan))
    part = read_part(storage, "shard-000000")
    assert part is not None
    assert (plan.shards, part.samples) == (1, 12)


def test_an_unfinished_job_of_other_data_is_refused_without_advice_to_remove_it(
    image_tree: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_tree, tmp_path / "data")
    out = begin(wanted(image_tree, tmp_path / "out"))
    next((tmp_path / "data").rglob("*.JPEG")).rename(tmp_path / "data" / "other.JPEG")
    with pytest.raises(UserError, match="an unfinished job of other inputs") as error:
        main(wanted(tmp_path / "data", out))
    message = (
        f"(data is {image_tree} there, {tmp_path / 'data'} now): give those again to continue it, or choose another"
    )
    assert message in str(error.value)
    assert "remove" not in str(error.value)


def test_a_tar_of_the_same_files_in_another_order_is_other_data(image_tree: Path, tmp_path: Path) -> None:
    paths = sorted(image_tree.rglob("*.JPEG"))
    for name, members in (("a", paths), ("b", paths[::-1])):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for path in members:
                tar.add(path, str(path.relative_to(image_tree)))
    shutil.copy(tmp_path / "a.tar", tmp_path / "c.tar")
    out = begin(wanted(tmp_path / "a.tar", tmp_path / "out"))
    same = wanted(tmp_path / "c.tar", out)
    assert _begin(same, open_storage(same.out), writer_versions(), None).inputs == 12
    with pytest.raises(UserError, match="an unfinished job of other inputs"):
        main(wanted(tmp_path / "b.tar", out))


@pytest.mark.usefixtures("ray_here")
def test_rejects_are_tried_again_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    for number in range(9):
        write_image(data / f"c{number % 2}" / f"{number}.jpg", seed=number)
    main(wanted(data, tmp_path / "fresh", samples_per_shard=3))
    good = (data / "c1" / "3.jpg").read_bytes()
    (data / "c1" / "3.jpg").write_bytes(b"")
    out = tmp_path / "out"
    main(wanted(data, out, samples_per_shard=3))
    assert read_manifest(out).rejects == 1
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (data / "c1" / "3.jpg").write_bytes(good)
    main(wanted(data, out, samples_per_shard=3))
    assert "rejects: 1 unreadable" in capsys.readouterr().out, "without the option nothing is tried again"
    main(wanted(data, out, samples_per_shard=3, retry_rejects=True))
    assert contents(out) == contents(tmp_path / "fresh")
    rewritten = [name for name, stamp in stamps.items() if (out / name).stat().st_mtime_ns != stamp]
    assert len(rewritten) == 1
    main(wanted(data, out, samples_per_shard=3, retry_rejects=True))
    assert "already there" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_here")
def test_lost_and_cut_shards_of_a_finished_dataset_are_written_again(image_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(wanted(image_tree, out, samples_per_shard=4))
    before = contents(out)
    kept = (out / "shard-000002.tar").stat().st_mtime_ns
    (out / "shard-000000.tar").unlink()
    (out / "shard-000001.idx").unlink()
    main(wanted(image_tree, out, samples_per_shard=4))
    assert contents(out) == before
    (out / "shard-000001.tar").write_bytes(b"cut")
    main(wanted(image_tree, out, samples_per_shard=4))
    assert contents(out) == before
    assert (out / "shard-000002.tar").stat().st_mtime_ns == kept


@pytest.mark.usefixtures("ray_here")
def test_changed_inputs_of_a_finished_dataset_are_said(image_tree: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(image_tree, data)
    main(wanted(data, tmp_path / "out"))
    write_image(data / "n00000000" / "new.JPEG", seed=99)
    with pytest.raises(UserError, match=r"\(12 inputs there, 13 now, not the same\)"):
        main(wanted(data, tmp_path / "out"))


def test_triplets_and_images_do_not_go_together(image_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layout = triplets needs clips"):
        main(wanted(image_tree, tmp_path / "out", layout="triplets"))


def test_an_object_store_holds_the_same_bytes(image_tree: Path, image_dataset: Path, bucket: str) -> None:
    from pipeline.storage import open_storage

    inputs = open_storage(f"{bucket}/inputs")
    for path in image_tree.rglob("*.JPEG"):
        inputs.write(str(path.relative_to(image_tree)), path.read_bytes())
    place = ("--data", f"{bucket}/inputs", "--out", f"{bucket}/dataset")
    subprocess.run([sys.executable, "-m", "pipeline.shards", *place, "--samples_per_shard", "4"], check=True)
    storage = open_storage(f"{bucket}/dataset")
    recorded = {name: storage.read(name) for name in storage.walk() if name != "job.json"}
    current = {path.name: path.read_bytes() for path in image_dataset.iterdir() if path.name != "job.json"}
    assert recorded == current
    assert storage.files(".parts") == []


def test_inputs_that_cannot_be_read_are_told_from_outputs(image_tree: Path, tmp_path: Path) -> None:
    csv = tmp_path / "none.csv"
    with pytest.raises(UserError, match=f"cannot read {csv}: No such file or directory"):
        main(wanted(image_tree, tmp_path / "out", annotations=str(csv)))
    assert list((tmp_path / "out").iterdir()) == [], "nothing has begun"


@pytest.mark.usefixtures("ray_here")
def test_a_full_disk_ends_in_one_sentence_and_room_completes_the_job(tmp_path: Path, small_disk: Path) -> None:
    data, filler = tmp_path / "data" / "c", small_disk / "filler"
    data.mkdir(parents=True)
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (300, 400, 3), np.uint8)
        (data / f"{number}.jpg").write_bytes(jpeg(noise))
    main(wanted(data.parent, tmp_path / "fresh", samples_per_shard=2))
    filler.write_bytes(bytes(1_400_000))
    out = small_disk / "out"
    with pytest.raises(UserError, match=f"cannot write shards to {out}: No space left on device; finished shards are"):
        main(wanted(data.parent, out, samples_per_shard=2))
    assert not (out / "dataset.json").exists()
    assert not list(out.glob(".tmp-*"))
    filler.unlink()
    main(wanted(data.parent, out, samples_per_shard=2))
    assert contents(out) == contents(tmp_path / "fresh")


def test_output_that_cannot_be_written_is_named(clip_tree: Path, tmp_path: Path) -> None:
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
