import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.programs import Programs
from tests.processes import heed_ctrl_c

WITH_A_CHILD = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(child.pid, flush=True)
time.sleep(600)
"""
SAVES = """
import pathlib, signal, sys, time
folder, caught = pathlib.Path(sys.argv[1]), []
signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
(folder / "ready").touch()
while not caught:
    time.sleep(0.01)
time.sleep(0.5)
(folder / "saved").write_text(str(len(caught)))
"""


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_gets_its_words_and_environment_and_its_output_is_kept(tmp_path: Path) -> None:
    program = "import os, sys; print(sys.argv[1], os.environ['GIVEN']); raise SystemExit(int(sys.argv[1]))"
    programs, log = Programs(), tmp_path / "log"
    assert programs.run(("python", "-c", program, "7"), log, environment={"GIVEN": "word"}) == 7
    assert programs.run(("python", "-c", "print('more')"), log) == 0
    assert log.read_text() == "7 word\nmore\n"


def test_a_program_that_is_too_slow_ends_with_all_that_it_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert Programs(grace_s=0.5).run(("python", "-c", WITH_A_CHILD), log, timeout_s=1.5) is None
    child = int(log.read_text().split()[0])
    deadline = time.monotonic() + 20
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_stop_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    programs, statuses = Programs(), list[int | None]()
    sleep = ("python", "-c", "import time; print('up', flush=True); time.sleep(60)")
    thread = threading.Thread(target=lambda: statuses.append(programs.run(sleep, tmp_path / "a")))
    thread.start()
    while "up\n" not in ((tmp_path / "a").read_text() if (tmp_path / "a").exists() else ""):
        time.sleep(0.02)
    programs.stop()
    thread.join(10)
    assert statuses == [-signal.SIGTERM]
    assert programs.run(("python", "--version"), tmp_path / "b") is None
    assert (tmp_path / "b").read_text() == ""


def test_ctrl_c_lets_a_program_save_and_end(tmp_path: Path) -> None:
    program = f"from benchmarks.programs import Programs; Programs().run({['python', '-c', SAVES, str(tmp_path)]})"
    ours = subprocess.Popen(
        [sys.executable, "-c", program], start_new_session=True, preexec_fn=heed_ctrl_c, stderr=subprocess.PIPE
    )
    while not (tmp_path / "ready").exists():
        assert ours.poll() is None
    os.killpg(ours.pid, signal.SIGINT)
    ours.wait()
    assert (tmp_path / "saved").read_text() == "1"
    assert ours.stderr is not None
    assert ours.stderr.read().splitlines()[-1] == b"KeyboardInterrupt"
