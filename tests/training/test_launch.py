import contextlib
import os
import signal
from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from pipeline.settings import UserError
from tests.training import forks
from training.launch import check_device, check_ranks, forward, launch, resolve
from training.signals import exit_status

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "--cpu",
    "--num_cpu_threads_per_process",
    "1",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--num_processes",
    "1",
)


@pytest.mark.parametrize(
    ("body", "status"),
    [("print('fine')", 0), ("raise SystemExit(75)", 75), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)],
)
def test_exit_status_and_output_are_those_of_the_program(body: str, status: int, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(f"import os, signal\n{body}\n")
    assert forks.launch([*OPTIONS, str(script)]).result() == (status, "fine\n" if status == 0 else "")


def test_a_missing_launch_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["--config_file", "none.yaml", "training/pretrain.py"]) == 2
    assert capsys.readouterr().err == "error: there is no launch file none.yaml: configs/accelerate/ holds some\n"


def resolved(*words: str) -> Namespace:
    """The options of a launch; the words that all have in common are left out."""
    usual = ("--mixed_precision", "no", "--dynamo_backend", "no")
    return resolve(launch_command_parser().parse_args([*usual, *words, "program.py"]))


@pytest.mark.parametrize(
    ("words", "refused"),
    [((), True), (("--gpu_ids", "0"), True), (("--gpu_ids", "-1"), False), (("--cpu",), False)],
)
def test_a_gpu_that_is_not_used_is_noticed_once_before_any_rank_starts(
    words: tuple[str, ...], refused: bool, unusable_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")
    options = resolved("--num_machines", "1", "--num_processes", "1", *words)
    with pytest.raises(UserError, match="has an NVIDIA GPU") if refused else contextlib.nullcontext():
        check_device(options)
    assert os.environ["ACCELERATE_USE_CPU"] == ("true" if "--cpu" in words else "")


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
    ("words", "expected"),
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
def test_launches_of_too_few_ranks_are_refused(
    words: tuple[str, ...], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = resolved(*words)
    if expected is None:
        check_ranks(options)
    else:
        with pytest.raises(UserError, match=expected):
            check_ranks(options)


def test_settings_of_the_default_launch_file_are_refused(
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
    assert message.out == f"note: without --config_file, this run is started as {file} says\n"
    assert "ACCELERATE_MIXED_PRECISION = fp16: set --train.precision instead" in message.err
    file.write_text(file.read_text().replace("LOCAL_MACHINE", "AMAZON_SAGEMAKER"))
    assert launch(["program.py"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "is empty: configs/accelerate/"), ("num_machines: 1\nnum_machines: 2\n", "num_machines is given twice")],
)
def test_empty_or_ambiguous_launch_files_are_refused(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "launch.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=expected):
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
    job = forks.launch([*OPTIONS, str(script)])
    ready.read_text()  # waits for the program
    os.kill(job.pid, number)
    assert job.result()[0] == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_launch_that_waits_for_other_machines(number: int) -> None:
    launcher = os.fork()
    if not launcher:
        forward(number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]) == exit_status(number)
