"""`python -m benchmarks.profile_step`: where the time of training steps goes, kernel by kernel.

Ten steps under torch's profiler. On a GPU the table names the kernels that take most of its time, and says how many
kernels a step launches, how often the host waits for the GPU, and for which share of the time the GPU has nothing to
do. On the CPU the operators of PyTorch take the place of kernels, and nothing is launched or waited for.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.result import report
from benchmarks.train import StepCommand, build_step
from pipeline.settings import COUNT_LIMIT, UserError, run_command

WARM_UP = 2
LARGEST = 10
_LAUNCH = re.compile(r"cu(da)?(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")
_WAIT = re.compile(r"cu(da)?(StreamSynchronize|DeviceSynchronize|CtxSynchronize|EventSynchronize|Memcpy)$")


class ProfileBenchmark(StepCommand):
    """Name the kernels of a training step that take the most time, and count launches and waits of the host."""

    program: ClassVar[str] = "python -m benchmarks.profile_step"

    out: Path = Path("benchmarks/results/profile.json")
    """Result file."""
    steps: int = Field(10, ge=1, le=COUNT_LIMIT)
    """Steps that are profiled, after two for warm-up."""


class Event(NamedTuple):
    """Work on the device, or a call on the host."""

    name: str
    on_device: bool
    start_us: float
    end_us: float
    own_us: float
    """Time without that of the calls inside."""


def record(step: Callable[[], None], steps: int, on_gpu: bool) -> list[Event]:
    """Events of so many steps; nothing in here waits for the device but the step itself."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        for _ in range(steps):
            step()
    events = []
    for event in recorded.events() or ():
        on_device, span = event.device_type == DeviceType.CUDA, event.time_range
        if not event.is_user_annotation:
            own = span.end - span.start if on_device else event.self_cpu_time_total
            events.append(Event(event.name, on_device, span.start, span.end, own))
    return events


def busy_us(events: Sequence[Event]) -> float:
    """Time in which at least one of the events runs."""
    total, until = 0.0, -float("inf")
    for event in sorted(events, key=lambda event: event.start_us):
        total += max(0.0, event.end_us - max(event.start_us, until))
        until = max(until, event.end_us)
    return total


def summarize(events: Sequence[Event], steps: int) -> dict[str, Any]:
    """Per step: launches, waits, and the largest kernels with their shares; the idle share of the device.

    Without a device it is left out, and the operators `aten::...` count as kernels, by the time in them alone.
    """
    device = [event for event in events if event.on_device]
    host = [event for event in events if not event.on_device]
    work = device or [event for event in host if event.name.startswith("aten::")]
    kernels: dict[str, list[float]] = {}
    for event in work:
        kernels.setdefault(event.name, []).append(event.own_us)
    total = sum(map(sum, kernels.values()))
    waits = [event for event in host if _WAIT.match(event.name)]
    result: dict[str, Any] = {
        "launches_per_step": sum(bool(_LAUNCH.match(event.name)) for event in host) / steps,
        "waits_per_step": len(waits) / steps,
        "wait_ms_per_step": sum(event.end_us - event.start_us for event in waits) / 1000 / steps,
        "kernel_ms_per_step": total / 1000 / steps,
        "kernels_per_step": len(work) / steps,
        "largest": [
            {
                "name": name,
                "share": sum(times) / total,
                "ms_per_step": sum(times) / 1000 / steps,
                "calls_per_step": len(times) / steps,
            }
            for name, times in sorted(kernels.items(), key=lambda kernel: -sum(kernel[1]))[:LARGEST]
        ],
    }
    if device:
        window = max(event.end_us for event in device) - min(event.start_us for event in device)
        result["idle_share"] = 1 - busy_us(device) / window
    return result


def table(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the printed table."""
    idle = f", idle {100 * figures['idle_share']:.1f} % of the time" if "idle_share" in figures else ""
    return [
        ("kernels", f"{figures['kernels_per_step']:.0f} a step, {figures['kernel_ms_per_step']:.1f} ms{idle}"),
        ("launches", f"{figures['launches_per_step']:.0f} a step"),
        ("waits of the host", f"{figures['waits_per_step']:.1f} a step, {figures['wait_ms_per_step']:.1f} ms"),
        *(
            (
                f"{100 * kernel['share']:4.1f} %, {kernel['ms_per_step']:.2f} ms, {kernel['calls_per_step']:.0f} calls",
                kernel["name"][:120],
            )
            for kernel in figures["largest"]
        ),
    ]


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
