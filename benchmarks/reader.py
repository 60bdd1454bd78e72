"""`make bench-reader`: throughput of both back ends of the reader, of a PyTorch DataLoader and of decoding alone.

Each measurement runs in its own process, in turn, several times; the table shows medians and ratios within this run.
Samples per core-second count the CPU time of all processes and threads. The first batches are not timed (of the
DataLoader, the first batch of each worker).
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from nvidia.dali import fn, pipeline_def, types
from pydantic import Field
from tqdm import tqdm

from benchmarks.made_shards import make_shards
from benchmarks.pillow_loader import pillow_loader
from benchmarks.result import print_table, write_result
from pipeline.dataset import INDEX, ShardDataset
from pipeline.reader.feed import plan_feed
from pipeline.reader.graph import decode_frames
from pipeline.reader.loader import Loader
from pipeline.reader.mixture import DatasetMixture
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.plan import needed_frames, plan_batch
from pipeline.sampling.views import ViewSettings
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, THREAD_LIMIT, Command, run_command

WARM_UP_STEPS = 3
STEPS_AFTER = 8
"""Batches after the timed ones, so that as much work is in progress at the end as at the start."""
PAGE = 4096
MADE_CLIPS = 512
MEMORY_VIEWS = ViewSettings(global_size=32, local_size=16, local_crops=2)
MEMORY_BATCH = 4
Figures = dict[str, float]


class ReaderBenchmark(Command):
    """Measure the reader; with --compare both back ends, a DataLoader with Pillow on the same plan, decoding, and more.

    Without --shards, synthetic clips of 340 x 256 pixels are used.
    """

    program: ClassVar[str] = "python -m benchmarks.reader"

    shards: Path | None = None
    """Folder of a shard dataset of clips."""
    out: Path = Path("benchmarks/results/reader.json")
    """Result file."""
    batch_size: int = Field(32, ge=1, le=BATCH_LIMIT)
    """Clips in a batch."""
    steps: int = Field(10, ge=2, le=COUNT_LIMIT)
    """Timed batches."""
    threads: int = Field(2, ge=1, le=THREAD_LIMIT)
    """CPU threads of the back end, and processes of the DataLoader."""
    views: ViewSettings = ViewSettings()
    """Crops and colors; the defaults are the paper's."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the batches are used."""
    backend: Literal["auto", "dali", "torch"] = "auto"
    """What makes the views. auto: DALI on a GPU, torch on a CPU."""
    compare: bool = False
    """Also measure the other back end, one thread, the DataLoader, decoding, bytes and memory; on the CPU."""
    rounds: int = Field(3, ge=1, le=COUNT_LIMIT)
    """How often each is measured."""
    memory_steps: int = Field(2000, ge=200, le=COUNT_LIMIT)
    """Steps over which memory is measured, with small views."""


def _settings(command: ReaderBenchmark) -> ReaderSettings:
    return ReaderSettings(
        shards=str(command.shards), threads=command.threads, views=command.views, backend=command.backend
    )


def _rates(samples: int, wall: float, cpu: float) -> Figures:
    return {"samples_per_second": samples / wall, "samples_per_core_second": samples / cpu}


def time_reader(command: ReaderBenchmark) -> Figures:
    """Time the reader, and count the CPU microseconds of the thread that takes the batches."""
    torch.set_num_threads(1)
    last = WARM_UP_STEPS + command.steps + STEPS_AFTER
    with Loader(_settings(command), command.batch_size, range(last), device=torch.device(command.device)) as loader:
        for _ in range(WARM_UP_STEPS):
            next(loader)
        started, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
        for _ in range(command.steps):
            batch = next(loader)
        own = time.thread_time() - own
        if batch.global_crops.is_cuda:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    samples = command.steps * command.batch_size
    return _rates(samples, wall, cpu) | {"taking_microseconds": 1e6 * own / samples}


def time_dali(command: ReaderBenchmark) -> Figures:
    """Time the DALI back end."""
    return time_reader(command.model_copy(update={"backend": "dali"}))


def time_torch(command: ReaderBenchmark) -> Figures:
    """Time the torch back end."""
    return time_reader(command.model_copy(update={"backend": "torch"}))


def time_one_thread(command: ReaderBenchmark) -> Figures:
    """Time the torch back end with one thread, on the same cores."""
    return time_torch(command.model_copy(update={"threads": 1}))


def time_pillow(command: ReaderBenchmark) -> Figures:
    """Time a DataLoader whose workers execute the same plan with Pillow."""
    torch.set_num_threads(1)
    workers = command.threads
    steps = workers * (1 + -(-command.steps // workers))
    seconds: list[float] = []
    arrived: list[float] = []
    for _, _, used in pillow_loader(_settings(command), command.batch_size, steps + STEPS_AFTER, workers):
        seconds.append(float(used))
        arrived.append(time.perf_counter())
        if len(seconds) == workers:
            own_cpu = time.process_time()
        if len(seconds) == steps:
            own_cpu = time.process_time() - own_cpu
    cpu = own_cpu + sum(seconds[steps - workers + worker] - seconds[worker] for worker in range(workers))
    return _rates((steps - workers) * command.batch_size, arrived[steps - 1] - arrived[workers - 1], cpu)


def time_decode(command: ReaderBenchmark) -> Figures:
    """Time DALI decoding the frames that the plan needs."""
    settings, size = _settings(command), command.batch_size
    mixture = DatasetMixture(settings)
    part = slice(0, size)
    steps = range(WARM_UP_STEPS + command.steps + 1)  # one batch is prepared ahead
    plans = [plan_batch(settings, mixture.table, step, size, part) for step in steps]
    encoded = [mixture.frames(p.source_rows[needed_frames(p)], p.frames[needed_frames(p)]) for p in plans]
    batches = iter(encoded)

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=3 * size, num_threads=command.threads, device_id=None, prefetch_queue_depth=1
    )
    def graph() -> Any:  # noqa: ANN401 - a DALI node
        frames = fn.external_source(source=lambda: next(batches), batch=True, dtype=types.UINT8, ndim=1)
        return decode_frames(frames, on_gpu=False)

    pipeline = graph()
    pipeline.build()
    for _ in range(WARM_UP_STEPS):
        pipeline.run()
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(command.steps):
        pipeline.run()
    return _rates(command.steps * size, time.perf_counter() - started, time.process_time() - cpu)


def time_host(command: ReaderBenchmark) -> Figures:
    """CPU microseconds per sample on the host: plan, reading (from the page cache) and inputs of the back end."""
    settings, size = _settings(command), command.batch_size
    mixture = DatasetMixture(settings)
    laps = []
    for step in range(WARM_UP_STEPS + 3 * command.steps):
        times = [time.thread_time()]
        plan = plan_batch(settings, mixture.table, step, size, slice(0, size))
        times.append(time.thread_time())
        mixture.advise(plan)
        frames = mixture.planned_frames(plan)
        times.append(time.thread_time())
        plan_feed(plan, settings.views, frames)
        times.append(time.thread_time())
        laps.append(np.diff(times))
    plan_s, read_s, feed_s = np.median(laps[WARM_UP_STEPS:], axis=0) * 1e6 / size
    parts = {"plan_microseconds": plan_s, "read_microseconds": read_s, "feed_microseconds": feed_s}
    return {"host_microseconds_per_sample": plan_s + read_s + feed_s, **parts}


def _io_counters() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def count_bytes(command: ReaderBenchmark) -> Figures:
    """Bytes of the planned frames per sample, and bytes of their pages, requested and read from storage.

    The shards are dropped from the page cache first; nothing is read from storage in memory.
    """
    settings, size = _settings(command), command.batch_size
    mixture = DatasetMixture(settings)
    for path in Path(settings.shards).glob("*.tar"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    plans = [plan_batch(settings, mixture.table, step, size, slice(0, size)) for step in range(command.steps)]
    dataset: ShardDataset = mixture.datasets[0]
    dataset.frame(0, 0)  # so that late imports and opens are not counted
    index = pq.read_table(Path(settings.shards, INDEX), columns=["shard", "frame_offset", "frame_size"]).to_pylist()
    pages: set[tuple[str, int]] = set()
    before, needed_bytes = _io_counters(), 0
    for plan in plans:
        mixture.advise(plan)
        needed_bytes += sum(len(jpeg) for column in mixture.planned_frames(plan) for jpeg in column if len(jpeg) > 1)
        needed = needed_frames(plan)
        for row, frame in zip(plan.source_rows[needed].tolist(), plan.frames[needed].tolist(), strict=True):
            sample = index[row]
            start, length = sample["frame_offset"][frame], sample["frame_size"][frame]
            pages.update((sample["shard"], page) for page in range(start // PAGE, (start + length - 1) // PAGE + 1))
    after = _io_counters()
    samples = len(plans) * size
    return {
        "bytes_needed_per_sample": needed_bytes / samples,
        "bytes_of_pages_over_needed": len(pages) * PAGE / needed_bytes,
        "bytes_asked_over_needed": (after["rchar"] - before["rchar"]) / needed_bytes,
        "bytes_from_storage_over_needed": (after["read_bytes"] - before["read_bytes"]) / needed_bytes,
    }


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * PAGE


def measure_memory(command: ReaderBenchmark) -> Figures:
    """Growth of the process's memory from a tenth of the steps to the last one."""
    settings = _settings(command).model_copy(update={"views": MEMORY_VIEWS})
    with Loader(settings, MEMORY_BATCH, range(command.memory_steps)) as loader:
        sizes = [_resident_bytes() for _ in tqdm(loader, total=command.memory_steps, unit="step", desc="memory")]
    return {"memory_growth_mb": (sizes[-1] - sizes[len(sizes) // 10]) / 1e6, "memory_mb": sizes[-1] / 1e6}


def _pinned(measure: Callable[[ReaderBenchmark], Figures], command: ReaderBenchmark) -> Figures:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: command.threads])
    return measure(command)


def _in_own_process(measure: Callable[[ReaderBenchmark], Figures], command: ReaderBenchmark) -> Figures:
    """Measure in a new process, with all its threads and children on `command.threads` cores."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_pinned, measure, command).result()


PEERS = {
    "reader": time_torch,
    "one_thread": time_one_thread,
    "dali": time_dali,
    "pillow": time_pillow,
    "decode": time_decode,
}
"""What is timed in turn; the reader's figures are those of the first."""


def compare(command: ReaderBenchmark) -> dict[str, Any]:
    """Figures of `PEERS`, measured in turn, and of bytes, memory and host work."""
    rounds: dict[str, list[Figures]] = {name: [] for name in PEERS}
    names = [*PEERS]
    for number in tqdm(range(command.rounds), desc=f"{', '.join(names)} in turn", unit="round"):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rounds[name].append(_in_own_process(PEERS[name], command))
    medians = {n: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for n, runs in rounds.items()}
    ratios = {
        f"{kind}_over_{peer}": statistics.median(
            ours[kind] / theirs[kind] for ours, theirs in zip(rounds["reader"], rounds[peer], strict=True)
        )
        for kind in ("samples_per_second", "samples_per_core_second")
        for peer in names[1:]
    }
    counted, memory = _in_own_process(count_bytes, command), _in_own_process(measure_memory, command)
    host = _in_own_process(time_host, command)
    return {**medians["reader"], "peers": medians, "rounds": rounds, **ratios, **counted, **memory, **host}


def main(command: ReaderBenchmark) -> None:
    """Measure, print and write the results."""
    with tempfile.TemporaryDirectory() as folder:
        if command.shards is None:
            made = make_shards(Path(folder), MADE_CLIPS)
            command = command.model_copy(update={"shards": made})
        figures: dict[str, Any] = compare(command) if command.compare else time_reader(command) | time_host(command)
    settings = {
        "device": command.device,
        "backend": _settings(command).backend_on(command.device),
        "threads": command.threads,
        "batch_size": command.batch_size,
        "global_size": command.views.global_size,
        "local_size": command.views.local_size,
        "local_crops": command.views.local_crops,
    }
    write_result(command.out, figures | settings)
    shown = {name: value for name, value in figures.items() if isinstance(value, float)}
    for peer, rates in figures.get("peers", {}).items():
        shown |= {f"{peer}_{name}": value for name, value in rates.items()}
    rows = [(name.replace("_", " "), f"{value:,.4g}") for name, value in shown.items()]
    print_table([*rows, ("written to", str(command.out))], f"Reader on {command.threads} threads")


if __name__ == "__main__":
    run_command(ReaderBenchmark, main)
