"""Shard jobs that tests run in this process or start as programs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.files import sha256_file
from pipeline.shards.command import ShardsCommand
from tests.processes import heed_ctrl_c, in_session


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the files that must not differ between runs: all but the report."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != "job.json"}


def shards_command(data: Path | str, out: Path | str, **options: Any) -> ShardsCommand:
    """A command without Ray that accepts any number of rejects."""
    return ShardsCommand.model_validate(
        {"data": str(data), "out": str(out), "workers": 0, "max_reject_fraction": 1, **options}
    )


def job_command(data: Path | str, out: Path | str, *options: str) -> list[str]:
    """The command line of a job of two samples per shard."""
    arguments = ["--data", str(data), "--out", str(out), "--samples_per_shard", "2", *options]
    return [sys.executable, "-m", "pipeline.shards", *arguments]


@contextlib.contextmanager
def running(
    command: list[str], environment: Mapping[str, str] = os.environ, cwd: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Start a program that heeds Ctrl-C in a session of its own; kill what is left of the session afterwards."""
    job = subprocess.Popen(
        command,
        env=environment,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield job
    finally:
        for process in in_session(job.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        job.communicate()


def wait_for_parts(out: Path, count: int, job: "subprocess.Popen[Any]") -> None:
    """Wait until `count` shards are finished and the job is still running."""
    deadline = time.monotonic() + 240
    while len(list(out.glob(".parts/shard-??????.parquet"))) < count:
        assert job.poll() is None, "the job ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
