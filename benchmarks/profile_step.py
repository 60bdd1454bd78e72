"""`python -m benchmarks.profile_step`: where the time of training steps goes, kernel by kernel.

Ten steps under torch's profiler. On a GPU the table names the kernels that take most of its time, and says how many
kernels a step launches, how often the host waits for the GPU, and for which share of the time the GPU has nothing to
do. On the CPU the operators of PyTorch take the place of kernels, and nothing is launched or waited for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from benchmarks.result import report
from benchmarks.train import StepCommand, build_step
from pipeline.settings import COUNT_LIMIT, UserError, run_command
from training.profiler import WARM_UP, Event, recorded_events, start_profile, summarize, table


class ProfileBenchmark(StepCommand):
    """Name the kernels of a training step that take the most time, and count launches and waits of the host."""

    program: ClassVar[str] = "python -m benchmarks.profile_step"

    out: Path = Path("benchmarks/results/profile.json")
    """Result file."""
    steps: int = Field(10, ge=1, le=COUNT_LIMIT)
    """Steps that are profiled, after two for warm-up."""


def record(step: Callable[[], None], steps: int, on_gpu: bool) -> list[Event]:
    """Events of so many steps; nothing in here waits for the device but the step itself."""
    recorded = start_profile(on_gpu)
    for _ in range(steps):
        step()
    recorded.stop()
    return recorded_events(recorded)


def main(command: ProfileBenchmark) -> None:
    """Profile, print and write."""
    on_gpu = command.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("device = cuda, but torch finds no NVIDIA GPU here: choose cpu")
    step = build_step(command)
    for _ in range(WARM_UP):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    figures = summarize(record(step, command.steps, on_gpu), command.steps)
    chosen = ("architecture", "batch_size", "prototypes", "device", "precision", "compile", "recompute", "steps")
    settings = {name: getattr(command, name) for name in chosen}
    report(
        command.out, {**settings, **figures}, table(figures), f"Profile of the training step, {command.architecture}"
    )


if __name__ == "__main__":
    run_command(ProfileBenchmark, main)
