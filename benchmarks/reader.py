"""`make bench`: how many samples a second the reader delivers on this machine.

Times `--steps` batches after a warm-up, with nothing done to them; planning alone is timed on the same steps.
"""

import time
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from tqdm import tqdm

from benchmarks.result import print_table, write_result
from pipeline.reader.loader import Loader, ReaderSettings, plan_feed
from pipeline.reader.plan import plan_batch
from pipeline.reader.views import ViewSettings
from pipeline.settings import Command, run_command

WARM_UP_STEPS = 2


class ReaderBenchmark(Command):
    """Measure the reader: samples a second, and the share of planning in it."""

    program: ClassVar[str] = "python -m benchmarks.reader"

    shards: Path
    """Folder of a shard dataset of clips."""
    out: Path = Path("benchmarks/results/reader.json")
    """Result file."""
    batch_size: int = Field(32, ge=1)
    """Clips in a batch."""
    steps: int = Field(10, ge=1)
    """Batches that are timed."""
    threads: int = Field(2, ge=1)
    """CPU threads of DALI."""
    views: ViewSettings = ViewSettings()
    """Crops and colours; the defaults are the paper's."""


def main(command: ReaderBenchmark) -> None:
    """Measure, print and write."""
    settings = ReaderSettings(shards=command.shards, threads=command.threads, views=command.views)
    total = WARM_UP_STEPS + command.steps
    with Loader(settings, command.batch_size, 0, total) as loader:
        for _ in range(WARM_UP_STEPS):
            next(loader)
        started = time.perf_counter()
        for _ in tqdm(range(command.steps), unit="batch", desc="reader"):
            next(loader)
        reading = time.perf_counter() - started
        started = time.perf_counter()
        for step in range(total):
            plan = plan_batch(settings, loader.table, step, command.batch_size, slice(0, command.batch_size))
            plan_feed(plan, loader.dataset)
        planning = (time.perf_counter() - started) / total
    samples = command.steps * command.batch_size
    figures = {
        "samples_per_second": samples / reading,
        "threads": command.threads,
        "batch_size": command.batch_size,
        "host_microseconds_per_sample": 1e6 * planning / command.batch_size,
        "global_size": command.views.global_size,
        "local_size": command.views.local_size,
        "local_crops": command.views.local_crops,
    }
    write_result(command.out, figures)
    rows = [
        ("samples/s", f"{figures['samples_per_second']:.1f} on {command.threads} threads"),
        ("planning and slicing", f"{figures['host_microseconds_per_sample']:.0f} microseconds a sample"),
        ("written to", str(command.out)),
    ]
    print_table(rows, "Reader")


if __name__ == "__main__":
    run_command(ReaderBenchmark, main)
