"""Runs the stages of a benchmark one after the other, each a process with a time limit; none can end the others."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.result import NOT_HERE

LINES_KEPT = 12
GRACE_S = 5.0
"""Time to end after SIGTERM."""
_ABSENT = re.compile(r"No module named '?([\w.]+)'?\s*$")
_OURS = frozenset({"benchmarks", "evaluation", "indexing", "pipeline", "tests", "training"})

Status = Literal["done", "failed", "too slow", "not here", "left out"]


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    status: Status
    seconds: float
    reason: str
    """Why it is not done: the last lines that it said, or what is missing; else empty."""


def absent_package(output: str) -> str | None:
    """The package whose absence ended a program that said `output`; None if that is not why, or if it is ours."""
    found = _ABSENT.search(output.rstrip())
    return found[1] if found and found[1].split(".")[0] not in _OURS else None


def judge(status: int | None, output: str) -> tuple[Status, str]:
    """Status and reason from an exit status, None for a program that was stopped, and what it said."""
    last = [line for line in output.replace("\r", "\n").splitlines() if line.strip()][-LINES_KEPT:]
    if status == 0:
        return "done", ""
    if status is None:
        return "too slow", "\n".join(last)
    if status == NOT_HERE:
        return "not here", last[-1] if last else ""
    if package := absent_package(output):
        return "not here", f"{package} is not installed"
    return "failed", "\n".join(last) or f"exit status {status}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_program(arguments: tuple[str, ...], limit_s: float, log: Path, environment: Mapping[str, str]) -> Outcome:
    """Run this Python with `arguments` for at most `limit_s` seconds; what it says goes to `log`."""
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        status = None
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _stop(process)
    judged, reason = judge(status, log.read_text(errors="replace"))
    return Outcome(judged, time.perf_counter() - started, reason)
