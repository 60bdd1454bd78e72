import os
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from pipeline.settings import UserError
from tests.processes import left_in_session
from tests.training.test_pretrain import losses, small
from training.checkpoint import checkpoints
from training.distributed import LOCK
from training.launch import check_ranks, forward, launch, resolve
from training.signals import exit_status

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


def resolved(*words: str) -> Namespace:
    """The options of a launch; the words that all have in common are left out."""
    usual = ("--mixed_precision", "no", "--dynamo_backend", "no")
    return resolve(launch_command_parser().parse_args([*usual, *words, "program.py"]))


TWO_MACHINES = (
    "--num_machines",
    "2",
    "--machine_rank",
    "0",
    "--main_process_ip",
    "node1",
    "--main_process_port",
    "29500",
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*TWO_MACHINES, "--num_processes", "2"), "start one process on each of 2 machines .*: give --multi_gpu,"),
        (("--cpu", "--num_processes", "2"), "one process that .*: give --config_file configs/accelerate/cpu.yaml in"),
        (("--multi_gpu", *TWO_MACHINES, "--num_processes", "3"), "3 counts .* all machines and does not divide by"),
        (("--num_processes", "0"), "--num_processes 0: must be at least 1"),
        (("--multi_gpu", *TWO_MACHINES, "--num_processes", "16"), None),
        (("--multi_gpu", "--num_processes", "8"), None),
        (("--config_file", "configs/accelerate/single.yaml"), None),
        (("--config_file", "configs/accelerate/single.yaml", "--num_processes", "8"), "give --multi_gpu"),
        (("--config_file", "configs/accelerate/nodes2.yaml"), None),
        (("--config_file", "configs/accelerate/fsdp2.yaml"), None),
        (("--config_file", "configs/accelerate/cpu.yaml"), None),
    ],
)
def test_a_launch_that_would_fall_apart_is_refused(
    words: tuple[str, ...], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = resolved(*words)
    if said is None:
        check_ranks(options)
    else:
        with pytest.raises(UserError, match=said):
            check_ranks(options)


def test_settings_of_the_default_launch_file_are_said_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "default_config.yaml"
    file.write_text(
        (ROOT / "configs/accelerate/gpus8.yaml").read_text().replace('mixed_precision: "no"', "mixed_precision: fp16")
    )
    for module in ("config.config_args", "launch"):
        monkeypatch.setattr(f"accelerate.commands.{module}.default_config_file", str(file))
    monkeypatch.setattr("training.launch.default_config_file", str(file))
    assert launch(["program.py"]) == 2
    message = capsys.readouterr()
    assert message.out == f"note: without --config_file, {file} says how this run starts\n"
    assert "ACCELERATE_MIXED_PRECISION = fp16: set --train.precision instead" in message.err
    file.write_text(file.read_text().replace("LOCAL_MACHINE", "AMAZON_SAGEMAKER"))
    assert launch(["program.py"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty: configs/accelerate/"), ("num_machines: 1\nnum_machines: 2\n", "num_machines is given twice")],
)
def test_a_launch_file_that_says_nothing_or_contradicts_itself(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "launch.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        resolved("--config_file", str(file))


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_launch_that_waits_for_other_machines(number: int) -> None:
    launcher = os.fork()
    if not launcher:
        forward(number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]) == exit_status(number)


@pytest.mark.dist
def test_two_machines_train_together(clip_dataset: Path, tmp_path: Path) -> None:
    """`nodes2.yaml` on the loopback: a rank on the CPU for each of two launchers."""
    file, out = tmp_path / "nodes2.yaml", tmp_path / "run"
    text = (ROOT / "configs/accelerate/nodes2.yaml").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for before, after in (("num_processes: 16", "num_processes: 2"), ("29500", str(port))):
        assert before in text
        text = text.replace(before, after)
    file.write_text(text + 'gpu_ids: "-1"\n')  # hides all GPUs there may be
    options = small(clip_dataset, out, **{"train.epochs": 1, "train.steps_per_epoch": 2})
    program = ["training/pretrain.py", *(f"--{key}={value}" for key, value in options.items())]
    launcher = [sys.executable, "-m", "training.launch", "--config_file", str(file), "--machine_rank"]
    machines = [
        subprocess.Popen(
            [*launcher, str(rank), *program],
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    message = [machine.communicate(timeout=180)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], message
    assert all(words.startswith("2 machines, 2 ranks, cpu\n") for words in message), message
    assert list(losses(out)) == [1, 2]
    assert [path.name for path in checkpoints(out)] == ["step-00000002"]
    assert not (out / LOCK).exists()
    assert [left_in_session(machine.pid) for machine in machines] == [[], []]
