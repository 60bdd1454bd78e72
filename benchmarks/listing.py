"""`make bench-listing`: time and memory of the shard job's plan, by the number of inputs.

Nothing is decoded and the inputs need not exist: only listing and planning grow with their number in one process. Each
size runs in a process of its own, whose peak memory includes its libraries.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from tqdm import tqdm

from benchmarks.programs import call_in_new_process
from benchmarks.result import report
from indexing.budget import peak_memory_gb
from pipeline.settings import COUNT_LIMIT, Command, run_command
from pipeline.shards.plan import make_plan
from pipeline.shards.sources import list_sources, open_data

CLASSES = 400
Figures = dict[str, float]


class ListingBenchmark(Command):
    """Measure time and memory in which the shard job lists its inputs and spreads them over shards."""

    program: ClassVar[str] = "python -m benchmarks.listing"

    inputs: tuple[Annotated[int, Field(ge=1, le=COUNT_LIMIT)], ...] = Field((1_000, 100_000, 1_000_000), min_length=1)
    """Numbers of inputs."""
    out: Path = Path("benchmarks/results/listing.json")
    """Result file."""


def write_list(target: Path, inputs: int) -> None:
    """A list of `inputs` clips with names as long as those of Kinetics, in class folders."""
    with target.open("w") as stream:
        for number in range(inputs):
            stream.write(f"class {number % CLASSES:03d}/{number:011d}_000010_000020.mp4\n")


def measure(target: Path) -> Figures:
    """Seconds, CPU seconds, peak memory in 10^6 bytes, and size of the plan in bytes, for the list at `target`."""
    plan_file = target.with_suffix(".parquet")
    started, cpu = time.perf_counter(), time.process_time()
    plan = make_plan(list_sources(open_data(str(target))), 0, None, plan_file)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": 1e3 * peak_memory_gb(),
        "plan_bytes": plan_file.stat().st_size,
        "shards": plan.shards,
    }


def main(command: ListingBenchmark) -> None:
    """Measure, print and write."""
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        for inputs in tqdm(sorted(command.inputs), desc="listing", unit="list"):
            target = Path(folder, f"{inputs}.txt")
            write_list(target, inputs)
            figures[str(inputs)] = call_in_new_process(measure, target)
    message = "{seconds:.1f} s ({cpu_seconds:.1f} s of CPU time), {peak_mb:.0f} MB, {shards:.0f} shards"
    rows = [(f"{int(inputs):,} inputs", message.format(**result)) for inputs, result in figures.items()]
    report(command.out, {"inputs": figures}, rows, "Listing and planning")


if __name__ == "__main__":
    run_command(ListingBenchmark, main)
