import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_stages import (
    EVALUATION,
    FEATURES,
    NEIGHBOURS,
    PROFILE,
    READER,
    RUN,
    TESTS,
    Stage,
    build_stages,
    describe,
    gpu_tests,
    read_figures,
    step_name,
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
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Command)]
    own = [kind for kind in kinds if kind.__module__ == name]
    (command,) = (kind for kind in own if not any(other is not kind and issubclass(other, kind) for other in own))
    return parse_command(command, options)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_program_understands_its_options(device: str, tmp_path: Path) -> None:
    shards = tmp_path / "my shards"
    stages = build_stages(device, 16, shards, tmp_path / "my results")
    assert len({stage.name for stage in stages}) == len(stages)
    assert {TESTS, READER, RUN, PROFILE, FEATURES, NEIGHBOURS, EVALUATION} <= {stage.name for stage in stages}
    commands: dict[str, Any] = {stage.name: command_of(stage) for stage in stages if stage.name != TESTS}
    assert all(commands[stage.name].out == stage.result for stage in stages if stage.name != TESTS)
    assert (commands[READER].device, commands[READER].threads) == (device, 16)
    assert commands[RUN].data.shards == str(shards)
    assert commands[READER].shards == commands[FEATURES].shards == shards
    train = commands[RUN].train
    build_schedules(commands[RUN].schedule, train.epochs, train.steps_per_epoch, train.total_batch_size)
    if device == "cuda":
        assert (commands[NEIGHBOURS].rows, commands[NEIGHBOURS].device) == (1_281_167, "gpu")
        assert train.precision == "bf16"
        paper = commands[step_name("base", 128, True)]
        assert (paper.architecture, paper.batch_size, paper.prototypes) == ("base", 128, 65536)
        assert (paper.device, paper.precision, paper.compile) == ("cuda", "bf16", True)
        assert commands[step_name("small", 64, True)].compile
        assert commands[step_name("small", 256, True)].batch_size == 256


def test_tests_are_chosen_by_what_is_there() -> None:
    folder = Path(__file__).parents[1]
    chosen = {str(Path(path).relative_to(folder)) for path in gpu_tests(folder, faiss=True)}
    assert chosen > {
        "device/test_placement.py",
        "pipeline/reader/test_graph.py",
        "indexing/test_engines.py",
        "benchmarks/test_knn.py",
    }
    assert "benchmarks/test_gpu_stages.py" not in chosen
    left = {str(Path(path).relative_to(folder)) for path in gpu_tests(folder, faiss=False)}
    assert chosen - left == {"indexing/test_engines.py", "benchmarks/test_knn.py"}


def test_figures_of_a_benchmark_leave_out_machine_and_versions(tmp_path: Path) -> None:
    stage = Stage("reader", "reader", (), 1, tmp_path / "reader.json")
    assert read_figures(stage) == {}
    stage.result.write_text(json.dumps({"samples_per_second": 1.5, "machine": {}, "versions": {}}))
    assert read_figures(stage) == {"samples_per_second": 1.5}


def test_figures_of_a_run_are_its_first_and_last_line(tmp_path: Path) -> None:
    stage = Stage("run", "run", (), 1, tmp_path)
    assert read_figures(stage) == {}
    keys = ("loss/total", "samples_per_second", "data_wait_share", "peak_memory_gb", "schedule/lr")
    lines = [{"step": step, **dict.fromkeys(keys, step / 10)} for step in (1, 20, 40)]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = read_figures(stage)
    assert (figures["first"]["step"], figures["last"]["step"]) == (1, 40)
    assert "schedule/lr" not in figures["last"]


def test_figures_of_the_tests_are_the_counts_of_pytest(tmp_path: Path) -> None:
    stage = Stage("tests", "tests", (), 1, tmp_path / "tests.xml")
    stage.result.write_text(
        '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="2" '
        'failures="1" skipped="1" tests="5" time="0.4"></testsuite></testsuites>'
    )
    assert read_figures(stage) == {"tests": 5, "failures": 1, "errors": 2, "skipped": 1}


def record(kind: str, figures: dict[str, Any], status: str = "done", reason: str = "") -> dict[str, Any]:
    return {"kind": kind, "figures": figures, "status": status, "seconds": 44.6, "reason": reason}


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        (
            record("step", {"seconds": 0.2, "peak_gb": 61.23, "mfu": 0.413, "projected_hours": 20.81}),
            "200 ms, 61.2 GB, MFU 41 %, the paper's epochs in 20.8 h",
        ),
        (record("step", {"seconds": 0.2, "peak_gb": 61.23}), "200 ms, 61.2 GB"),
        (record("reader", {"samples_per_second": 3000.4, "threads": 16}), "3000 samples/s, 16 CPU threads"),
        (
            record("tests", {"tests": 5, "failures": 1, "errors": 2, "skipped": 1}, "failed", "x\nE 1"),
            "1 passed, 1 failed, 2 errors, 1 skipped; failed: E 1",
        ),
        (record("neighbours", {}, "unavailable", "FAISS finds no GPU"), "unavailable: FAISS finds no GPU"),
        (record("evaluation", {}, "too slow", "interrupted"), "stopped after 45 s"),
        (record("evaluation", {}, "skipped", "out of time"), "skipped: out of time"),
    ],
)
def test_a_stage_in_one_line(stage: dict[str, Any], line: str) -> None:
    assert describe(stage) == line
