"""Where the time of training steps goes, by torch's profiler: named ranges of a step, and the largest kernels.

`StepProfiler` records some steps of a run; `python -m benchmarks.profile_step` records steps without data and ranks.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pipeline.files import atomic_path

WARM_UP = 2
"""Steps that are not recorded: kernels are chosen and memory is allocated in them."""
LARGEST = 10
FOLDER = "profile"
TRACE = "trace.json.gz"
RANGES = ("wait for data", "student", "teacher", "auxiliary", "losses", "backward", "optimizer", "EMA")
"""Names of the parts of a step, which `record_function` marks where they are."""
_LAUNCH = re.compile(r"cu(da)?(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")
_WAIT = re.compile(r"cu(da)?(StreamSynchronize|DeviceSynchronize|CtxSynchronize|EventSynchronize|Memcpy)$")


class Event(NamedTuple):
    """Work on the device, a call on the host, or on either a range."""

    name: str
    on_device: bool
    start_us: float
    end_us: float
    own_us: float
    """Time without that of the calls inside."""
    is_range: bool = False


def start_profile(on_gpu: bool) -> profile:
    """A profile of host and device that records from now on."""
    recorded = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])
    recorded.start()
    return recorded


def recorded_events(recorded: profile) -> list[Event]:
    """The events of a profile that was stopped."""
    events = []
    for event in recorded.events() or ():  # type: ignore[no-untyped-call]
        on_device, span = event.device_type == DeviceType.CUDA, event.time_range
        is_range = event.name in RANGES
        if is_range or not event.is_user_annotation:
            own = span.end - span.start if on_device else event.self_cpu_time_total
            events.append(Event(event.name, on_device, span.start, span.end, own, is_range))
    return events


def busy_us(events: Sequence[Event]) -> float:
    """Time in which at least one of the events runs."""
    total, until = 0.0, -float("inf")
    for event in sorted(events, key=lambda event: event.start_us):
        total += max(0.0, event.end_us - max(event.start_us, until))
        until = max(until, event.end_us)
    return total


def summarize(events: Sequence[Event], steps: int) -> dict[str, Any]:
    """Per step: ranges, launches, waits, and the largest kernels with their shares; the idle share of the device.

    A range has the time between its ends, on the host and on the device. Without a device it is left out, and the
    operators `aten::...` count as kernels, by the time in them alone.
    """
    device = [event for event in events if event.on_device and not event.is_range]
    host = [event for event in events if not event.on_device and not event.is_range]
    work = device or [event for event in host if event.name.startswith("aten::")]
    kernels: dict[str, list[float]] = {}
    for event in work:
        kernels.setdefault(event.name, []).append(event.own_us)
    total = sum(map(sum, kernels.values()))
    waits = [event for event in host if _WAIT.match(event.name)]
    result: dict[str, Any] = {
        "ranges": _ranges([event for event in events if event.is_range], steps, bool(device)),
        "launches_per_step": sum(bool(_LAUNCH.match(event.name)) for event in host) / steps,
        "waits_per_step": len(waits) / steps,
        "wait_ms_per_step": _milliseconds(waits, steps),
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


def _milliseconds(events: Sequence[Event], steps: int) -> float:
    return sum(event.end_us - event.start_us for event in events) / 1000 / steps


def _ranges(events: Sequence[Event], steps: int, with_device: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of each range per step, in the order of `RANGES`."""
    result = {}
    for name in RANGES:
        if same := [event for event in events if event.name == name]:
            result[name] = {"host_ms": _milliseconds([event for event in same if not event.on_device], steps)}
            if with_device:
                result[name]["device_ms"] = _milliseconds([event for event in same if event.on_device], steps)
    return result


def table(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the printed table."""
    idle = f", idle {100 * figures['idle_share']:.1f} % of the time" if "idle_share" in figures else ""
    return [
        *(
            (name, ", ".join(f"{value:.2f} ms on the {kind.removesuffix('_ms')}" for kind, value in times.items()))
            for name, times in figures["ranges"].items()
        ),
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


class StepProfiler:
    """Profiles some steps of a run on this rank, after two for warm-up, and writes their trace into its folder."""

    def __init__(self, run: Path, steps: int | None, on_gpu: bool) -> None:
        """Nothing is recorded if `steps` is None."""
        self._run, self._steps, self._on_gpu = run, steps, on_gpu
        self._done = 0
        self._recorded: profile | None = None

    def step_begins(self) -> None:
        """Start to record if the warm-up is over."""
        if self._steps is not None and self._done == WARM_UP:
            self._recorded = start_profile(self._on_gpu)

    def step_done(self) -> list[tuple[str, str]]:
        """Count a step; after the last one that is recorded, returns the rows of the table and writes the trace."""
        self._done += 1
        return self.finish() if self._steps is not None and self._done == WARM_UP + self._steps else []

    def finish(self) -> list[tuple[str, str]]:
        """Stop to record, also before all steps are done; returns the rows of the table."""
        recorded, self._recorded = self._recorded, None
        if recorded is None:
            return []
        recorded.stop()
        steps = self._done - WARM_UP
        if not steps:
            return []
        with atomic_path(self._run / FOLDER, replaces=(TRACE,)) as folder:
            folder.mkdir()
            recorded.export_chrome_trace(str(folder / TRACE))
        return table(summarize(recorded_events(recorded), steps))
