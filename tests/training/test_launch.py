import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = ("--cpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", "1")


@pytest.mark.parametrize(
    ("body", "status"),
    [("print('fine')", 0), ("raise SystemExit(75)", 75), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)],
)
def test_the_exit_status_is_that_of_the_program_and_nothing_is_added_to_what_it_says(
    body: str, status: int, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(f"import os, signal\n{body}\n")
    command = [sys.executable, "-m", "training.launch", *OPTIONS, str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_a_launch_file_that_is_not_there_is_named() -> None:
    command = [sys.executable, "-m", "training.launch", "--config_file", "none.yaml", "training/pretrain.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "error: there is no launch file none.yaml: configs/accelerate/ holds some\n",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_the_program(number: signal.Signals, tmp_path: Path) -> None:
    script, ready = tmp_path / "program.py", tmp_path / "ready"
    os.mkfifo(ready)
    script.write_text(
        "import signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(75))\n"
        f"open({str(ready)!r}, 'w').close()\n"
        "signal.pause()\n"
    )
    job = subprocess.Popen([sys.executable, "-m", "training.launch", *OPTIONS, str(script)], cwd=ROOT)
    ready.read_text()  # waits for the program
    job.send_signal(number)
    assert job.wait(timeout=60) == 75
