"""Shard jobs that tests run in this process or start as programs."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.files import sha256_file
from pipeline.shards.command import ShardsCommand


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the files that must not differ between runs: all but the report."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != "job.json"}


def shards_command(data: Path | str, out: Path | str, **options: Any) -> ShardsCommand:
    """A command with one worker that accepts any number of rejects."""
    return ShardsCommand(data=str(data), out=str(out), workers=1, max_reject_fraction=1, **options)


def job_command(data: Path | str, out: Path | str, *options: str) -> list[str]:
    """The command line of a job of two samples per shard."""
    arguments = ["--data", str(data), "--out", str(out), "--samples_per_shard", "2", *options]
    return [sys.executable, "-m", "pipeline.shards", *arguments]


def wait_for_parts(out: Path, count: int, job: "subprocess.Popen[Any]") -> None:
    """Wait until `count` shards are finished and the job is still running."""
    deadline = time.monotonic() + 240
    while len(list(out.glob(".parts/shard-??????.parquet"))) < count:
        assert job.poll() is None, "the job ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
