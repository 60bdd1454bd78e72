"""`make bench-listing`: what a longer list costs the shard job before its first shard: time and memory of the plan.

Nothing is decoded, and the inputs need not exist: that part of the job grows with their number in the program that
started it, while decoding takes one shard at a time, whatever their number. Each size runs in a process of its own,
whose largest memory counts, with its libraries.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from tqdm import tqdm

from benchmarks.result import print_table, write_result
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
    """Seconds, also of processor time, largest memory in 10^6 bytes, and bytes of the plan of the list at `target`."""
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
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                figures[str(inputs)] = pool.submit(measure, target).result()
    write_result(command.out, {"inputs": figures})
    message = "{seconds:.1f} s ({cpu_seconds:.1f} s of processor time), {peak_mb:.0f} MB, {shards:.0f} shards"
    rows = [(f"{int(inputs):,} inputs", message.format(**result)) for inputs, result in figures.items()]
    print_table([*rows, ("written to", str(command.out))], "Listing and planning")


if __name__ == "__main__":
    run_command(ListingBenchmark, main)
