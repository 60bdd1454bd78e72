import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_stages import (
    EVALUATION,
    FEATURES,
    NEIGHBOURS,
    READER,
    RUN,
    TESTS,
    Stage,
    build_stages,
    count_tests,
    gpu_sizes,
    read_figures,
    say,
    step_name,
    tiny_sizes,
)
from pipeline.settings import Command, parse_command
from training.metrics import METRICS
from training.schedules import build_schedules


def command_of(stage: Stage) -> Command:
    """The settings that a stage's program reads from its command line."""
    if stage.kind == "run":
        name, options = "training.pretrain", stage.arguments[4:]
        assert stage.arguments[:4:3] == ("-m", "training/pretrain.py")
    else:
        name, options = stage.arguments[1], stage.arguments[2:]
    module = importlib.import_module(name)
    (command,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Command) and kind.__module__ == name
    )
    return parse_command(command, options)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_program_understands_its_options(device: str, tmp_path: Path) -> None:
    sizes = gpu_sizes(16) if device == "cuda" else tiny_sizes()
    stages = build_stages(sizes, device, tmp_path / "shards", tmp_path)
    stages = [stage for stage in stages if stage.kind != "tests"]
    commands: dict[str, Any] = {stage.name: command_of(stage) for stage in stages}
    assert all(command.out == stage.result for stage, command in zip(stages, commands.values(), strict=True))
    assert commands[READER].device == device
    assert commands[READER].threads == sizes.threads
    assert commands[RUN].data.shards == str(tmp_path / "shards")
    train = commands[RUN].train
    build_schedules(commands[RUN].schedule, train.epochs, train.steps_per_epoch, train.total_batch_size)
    if device == "cuda":
        assert commands[NEIGHBOURS].rows == 1_281_167
        assert commands[NEIGHBOURS].device == "gpu"
        assert train.precision == "bf16"
        paper = commands[step_name("base", 128, True)]
        assert (paper.architecture, paper.batch_size, paper.prototypes) == ("base", 128, 65536)
        assert (paper.device, paper.precision, paper.compile) == ("cuda", "bf16", True)
        assert commands[step_name("small", 256, True)].batch_size == 256


def test_all_that_was_asked_for_is_a_stage(tmp_path: Path) -> None:
    names = [stage.name for stage in build_stages(gpu_sizes(16), "cuda", tmp_path, tmp_path)]
    steps = {step_name("small", 64, True), step_name("small", 256, True), step_name("base", 128, True)}
    assert {TESTS, READER, RUN, FEATURES, NEIGHBOURS, EVALUATION, *steps} <= set(names)
    assert len(names) == len(set(names))


def test_machine_and_versions_are_not_repeated(tmp_path: Path) -> None:
    stage = Stage("reader", "reader", (), 1, tmp_path / "reader.json")
    assert read_figures(stage) == {}
    stage.result.write_text(json.dumps({"samples_per_second": 1.5, "machine": {}, "versions": {}}))
    assert read_figures(stage) == {"samples_per_second": 1.5}


def test_a_run_gives_its_first_and_last_line(tmp_path: Path) -> None:
    stage = Stage("run", "run", (), 1, tmp_path)
    assert read_figures(stage) == {}
    keys = ("loss/total", "samples_per_second", "data_wait_share", "peak_memory_gb", "schedule/lr")
    lines = [{"step": step, **dict.fromkeys(keys, step / 10)} for step in (1, 20, 40)]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = read_figures(stage)
    assert (figures["first"]["step"], figures["last"]["step"]) == (1, 40)
    assert "schedule/lr" not in figures["last"]
    (tmp_path / METRICS).write_text(json.dumps(lines[0]) + "\n")
    assert read_figures(stage)["first"] == read_figures(stage)["last"]


def test_a_report_of_pytest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\npytestmark = pytest.mark.filterwarnings('ignore')\n"
        "def test_good(): pass\ndef test_bad(): assert 1 == 2\ndef test_without(): pytest.skip('no GPU')\n"
        "@pytest.fixture\ndef broken(): raise OSError\ndef test_never_begun(broken): pass\n"
    )
    (tmp_path / "test_absent.py").write_text("import no_such_package\n")
    report = tmp_path / "tests.xml"
    options = ("-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junitxml={report}")
    subprocess.run([sys.executable, "-m", "pytest", *options, "."], cwd=tmp_path, capture_output=True)
    assert count_tests(report) == {
        "passed": 1,
        "failed": ["test_some::test_bad", "test_some::test_never_begun"],
        "skipped": 1,
        "not_here": ["test_absent: no_such_package"],
    }


def record(kind: str, figures: dict[str, Any], status: str = "done", reason: str = "") -> dict[str, Any]:
    return {"kind": kind, "figures": figures, "status": status, "seconds": 44.6, "reason": reason}


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            record("step", {"seconds": 0.2, "peak_gb": 61.23, "mfu": 0.413, "projected_hours": 20.81}),
            "200 ms, 61.2 GB, MFU 41 %, the paper's epochs in 20.8 h",
        ),
        (record("step", {"seconds": 0.2, "peak_gb": 61.23}), "200 ms, 61.2 GB"),
        (record("reader", {"samples_per_second": 3000.4, "threads": 16}), "3000 samples/s, 16 CPU threads"),
        (
            record("tests", {"passed": 2, "failed": ["c"], "skipped": 3, "not_here": []}, "failed", "x\nE 1"),
            "2 passed, 3 skipped, 1 failed, 0 files need a package that is not installed; failed: E 1",
        ),
        (record("neighbours", {}, "not here", "FAISS finds no GPU"), "not here: FAISS finds no GPU"),
        (record("evaluation", {}, "too slow", "interrupted"), "stopped after 45 s"),
        (record("evaluation", {}, "left out", "the time was over"), "left out: the time was over"),
    ],
)
def test_a_stage_in_one_line(told: dict[str, Any], line: str) -> None:
    assert say(told) == line
