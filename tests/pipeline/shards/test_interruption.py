"""Jobs that are interrupted or killed, and the processes and files that they leave."""

import contextlib
import os
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import UserError
from pipeline.shards.__main__ import main
from tests.pipeline.shards.jobs import contents, job_command, running, shards_command, wait_for_parts
from tests.processes import in_session, left_in_session


def kill_starting_workers(job: "subprocess.Popen[str]", count: int = 2) -> None:
    """Kill workers while Ray starts them, as the kernel does when out of memory."""
    killed, deadline = set[int](), time.monotonic() + 120
    while len(killed) < count:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        for process, command in in_session(job.pid).items():
            if "default_worker.py" in command and "raylet/raylet" not in command and process not in killed:
                killed.add(process)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


@pytest.mark.slow
def test_a_job_that_loses_workers_is_interrupted_and_then_killed_continues_to_the_same_bytes(
    slow_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HOME, and a TMPDIR too long for sockets, stay empty."""
    data, undisturbed = slow_job
    out, home, tmpdir = tmp_path / "out", tmp_path / "home", tmp_path / "scheduler" / ("0123456789" * 10)
    home.mkdir()
    tmpdir.mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(tmpdir)}
    environment["RAY_worker_register_timeout_seconds"] = "5"  # then Ray replaces killed workers
    with running(job_command(data, out, "--clips.length", "4", "--workers", "2"), environment) as job:
        kill_starting_workers(job)
        wait_for_parts(out, 1, job)
        with pytest.raises(UserError, match=f"another job is writing to {out}"):
            main(shards_command(data, out, samples_per_shard=2, clips={"length": 4}))
        (out / ".tmp-shard-000009.tar-half").touch()  # as left by a task whose worker died
        os.killpg(job.pid, signal.SIGINT)
        _, message = job.communicate(timeout=60)
        assert job.returncode == 130, message
        assert "Traceback" not in message
        assert not list(out.glob(".tmp-*"))
        assert left_in_session(job.pid) == []
    assert list(home.rglob("*")) == list(tmpdir.rglob("*")) == []
    for path in out.glob("shard-*.tar"):
        with tarfile.open(path) as tar:
            assert tar.getnames()
    tars = [out / f"{part.stem}.tar" for part in out.glob(".parts/shard-??????.parquet")]
    finished = {tar: tar.stat().st_mtime_ns for tar in tars}

    with running(job_command(data, out, "--clips.length", "4", "--workers", "0")) as job:
        wait_for_parts(out, len(finished) + 2, job)
        assert not any("raylet" in command for command in in_session(job.pid).values()), "without workers no Ray starts"
        os.killpg(job.pid, signal.SIGKILL)
    assert not (out / "dataset.json").exists()
    (out / ".tmp-shard-000000.tar-half").write_bytes(b"half")
    main(shards_command(data, out, samples_per_shard=2, clips={"length": 4}))
    assert "continuing the job" in capsys.readouterr().out
    assert contents(out) == contents(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "finished shards are kept"


@pytest.mark.slow
def test_sigterm_while_ray_starts_ends_in_one_line(image_tree: Path, tmp_path: Path) -> None:
    command = job_command(image_tree, tmp_path / "out", "--workers", "1")
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as tmpdir,
        running(command, {**os.environ, "TMPDIR": tmpdir}) as job,
    ):
        while not any("raylet/raylet" in command for command in in_session(job.pid).values()):
            assert job.poll() is None
            time.sleep(0.02)
        os.kill(job.pid, signal.SIGTERM)
        _, message = job.communicate(timeout=60)
        assert job.returncode == 130, message
        assert message.splitlines()[-1] == "interrupted; finished files are kept"
        assert "Traceback" not in message
        assert "***" not in message, "no stack of C++ functions"
        assert left_in_session(job.pid) == []
        assert list(Path(tmpdir).iterdir()) == []
