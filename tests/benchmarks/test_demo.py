import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.demo import Stages
from pipeline.settings import UserError
from tests.processes import heed_ctrl_c


def test_stages_show_their_command_and_stop_at_the_first_failure(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stages = Stages()
    stages.run("a good one", "python", "-c", "print('hello')")
    assert "a good one" in stages.seconds
    with pytest.raises(UserError, match=r"stopped at 'a bad one' \(status 3\)"):
        stages.run("a bad one", "python", "-c", "raise SystemExit(3)")
    said = capfd.readouterr().out
    assert "== a good one\n$ python -c" in said
    assert "hello" in said


STAGE = """
import pathlib, signal, sys, time
folder, caught = pathlib.Path(sys.argv[1]), []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
(folder / "ready").touch()
while not caught:
    time.sleep(0.01)
time.sleep(3)
(folder / "ended").write_text(str(len(caught)))
"""


def test_ctrl_c_reaches_a_stage_once_and_its_end_is_waited_for(tmp_path: Path) -> None:
    program = f"from benchmarks.demo import run_and_wait; run_and_wait({[sys.executable, '-c', STAGE, str(tmp_path)]})"
    demo = subprocess.Popen(
        [sys.executable, "-c", program], start_new_session=True, preexec_fn=heed_ctrl_c, stderr=subprocess.PIPE
    )
    while not (tmp_path / "ready").exists():
        assert demo.poll() is None
    os.killpg(demo.pid, signal.SIGINT)
    demo.wait()
    assert (tmp_path / "ended").read_text() == "1"
    assert demo.stderr is not None
    assert demo.stderr.read().splitlines()[-1] == b"KeyboardInterrupt"
