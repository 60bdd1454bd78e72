"""The stages of `make bench-gpu`, one after the other.

Each stage is a program of this project in its own process with a time limit (`benchmarks/gpu_stages.py`). If one fails,
its last lines are recorded and the next one follows; a missing package is named. The result file is written after each
stage. Downloads nothing.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from tqdm import tqdm

from benchmarks.gpu_stages import SIZES, Stage, absent_package, build_stages, describe, passed_tests, read_figures
from benchmarks.made_shards import make_shards
from benchmarks.programs import Programs
from benchmarks.result import UNAVAILABLE, print_table, write_result
from pipeline.settings import COUNT_LIMIT, Command, UserError

ROOT = Path(__file__).parents[1]
RESULT = Path("benchmarks/results/gpu.json")
LINES_KEPT = 12

Status = Literal["done", "failed", "too slow", "unavailable", "skipped"]


class GpuBenchmark(Command):
    """Run the GPU tests and measure reader, training, features, neighbours and evaluation on one NVIDIA GPU.

    Ends with a table and one JSON file; `make performance` puts it into docs/performance.md.
    """

    program: ClassVar[str] = "python -m benchmarks.gpu"

    device: Literal["cuda", "cpu"] = "cuda"
    """cpu: a dry run at tiny sizes that shows that the stages run; it measures nothing."""
    out: Path | None = None
    """Result file; default benchmarks/results/gpu.json, and none in a dry run."""
    limit_s: float = Field(470, gt=0, le=COUNT_LIMIT)
    """Seconds for all stages; those that would begin later are skipped."""


def describe_gpu() -> dict[str, Any]:
    """Name and memory of the first GPU, and the CUDA that torch was built for."""
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}


def stage_environment(on_gpu: bool) -> dict[str, str]:
    """Variables for the stages, so that scripts find the project's packages where it is not installed."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {"PYTHONUNBUFFERED": "1", "PYTHONPATH": paths} | ({} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""})


def judge(status: int | None, output: str) -> tuple[Status, str]:
    """Status and reason from an exit status (None: the program was stopped) and the output."""
    last = [line for line in output.replace("\r", "\n").splitlines() if line.strip()][-LINES_KEPT:]
    if status == 0:
        return "done", ""
    if status is None:
        return "too slow", "\n".join(last)
    if status == UNAVAILABLE:
        return "unavailable", last[-1] if last else ""
    if package := absent_package(output):
        return "unavailable", f"{package} is not installed"
    return "failed", "\n".join(last) or f"exit status {status}"


def check_tests(figures: dict[str, Any]) -> tuple[Status, str]:
    """Status and reason of a test stage that ended well: at least one test must have passed."""
    passed = passed_tests(figures) if figures else 0
    return ("done", "") if passed else ("failed", "no test ran: all were skipped, or none could be imported")


def run_stages(
    stages: list[Stage], work: Path, ends_at: float, environment: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Run the stages and yield the record of each: name, kind, status, seconds, reason, figures.

    `ends_at` refers to the monotonic clock.
    """
    programs = Programs(grace_s=5.0)
    with tqdm(stages, unit="stage") as bar:
        for number, stage in enumerate(bar):
            bar.set_description(stage.name)
            started = time.monotonic()
            status: Status = "skipped"
            reason = "out of time"
            if started < ends_at:
                log = work / f"{number}.log"
                limit_s = min(stage.limit_s, ends_at - started)
                exit_status = programs.run(("python", *stage.arguments), log, limit_s, environment)
                status, reason = judge(exit_status, log.read_text(errors="replace"))
            seconds, figures = time.monotonic() - started, read_figures(stage)
            if stage.kind == "tests" and status == "done":
                status, reason = check_tests(figures)
            result = {"status": status, "seconds": seconds, "reason": reason, "figures": figures}
            record = {"name": stage.name, "kind": stage.kind, **result}
            bar.write(f"{seconds:5.0f} s  {stage.name}: {describe(record)}")
            yield record


def run(command: GpuBenchmark) -> int:
    """Run all stages, print and write; returns 1 if one failed or was too slow."""
    on_gpu = command.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError(
            f"torch {torch.__version__} finds no NVIDIA GPU here: run this on a machine that has one "
            "(--device cpu only tries the stages, at tiny sizes)"
        )
    started = time.monotonic()
    threads = min(len(os.sched_getaffinity(0)), 16) if on_gpu else 1
    out = command.out or (RESULT if on_gpu else None)
    gpu = describe_gpu() if on_gpu else None
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shards = make_shards(work / "shards", SIZES[command.device].clips)
        stages = build_stages(command.device, threads, shards, work)
        for record in run_stages(stages, work, started + command.limit_s, stage_environment(on_gpu)):
            records.append(record)
            if out is not None:
                seconds = time.monotonic() - started
                write_result(out, {"device": command.device, "gpu": gpu, "seconds": seconds, "stages": records})
    rows = [(record["name"], describe(record)) for record in records]
    rows += [("time", f"{time.monotonic() - started:.0f} s"), *([("written to", str(out))] if out else [])]
    print_table(rows, torch.cuda.get_device_name() if on_gpu else "Dry run on the CPU: no measurement")
    return int(any(record["status"] in ("failed", "too slow") for record in records))
