import time
from pathlib import Path

import pytest

from benchmarks.gpu_run import absent_package, judge, run_program
from benchmarks.result import NOT_HERE

CHILD = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, "all is well\n", ("done", "")),
        (None, "step 3\rstep 4\n", ("too slow", "step 3\nstep 4")),
        (1, "", ("failed", "exit status 1")),
        (-9, "", ("failed", "exit status -9")),
        (2, "a\n\nerror: no such folder\n", ("failed", "a\nerror: no such folder")),
        (NOT_HERE, "looking\nFAISS finds no GPU\n", ("not here", "FAISS finds no GPU")),
        (1, "Traceback\nModuleNotFoundError: No module named 'ray'\n", ("not here", "ray is not installed")),
        (1, "/usr/bin/python3: No module named pytest\n", ("not here", "pytest is not installed")),
        (1, "ModuleNotFoundError: No module named 'pipeline.gone'\n", ("failed", None)),
        (0, "warning: No module named 'x'\n", ("done", "")),
    ],
)
def test_how_a_program_ended(status: int | None, output: str, expected: tuple[str, str | None]) -> None:
    judged, reason = judge(status, output)
    assert judged == expected[0]
    assert expected[1] in (None, reason)


def test_the_last_lines_are_kept() -> None:
    assert judge(1, "\n".join(map(str, range(100))))[1].splitlines() == [str(number) for number in range(88, 100)]


def test_a_package_that_is_missing_in_the_middle_is_not_why() -> None:
    assert absent_package("No module named 'ray'\nRuntimeError: something else") is None


def test_a_program_gets_its_arguments_and_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import os, sys; print(sys.argv[1], os.environ['GIVEN']); raise SystemExit(int(sys.argv[1]))"
    outcome = run_program(("-c", program, "7"), 60, log, {"GIVEN": "word"})
    assert (outcome.status, outcome.reason) == ("failed", "7 word")
    assert log.read_text() == "7 word\n"


def test_a_program_that_is_too_slow_ends_with_all_it_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    outcome = run_program(("-c", CHILD), 5, log, {})
    assert outcome.status == "too slow"
    child = int(log.read_text())
    deadline = time.monotonic() + 20
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
