"""`make bench-knn`: the neighbour search against FAISS's flat index on the same arrays, its memory, and its growth.

Both searches take turns on the same blocks of queries in one process, so that what else the machine does meets both;
the figure is the median of the ratios. With `--device gpu` the search on the GPUs is measured instead, and some of its
neighbours are compared with those that the CPU finds.
"""

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from benchmarks.result import NOT_HERE, print_table, write_result
from indexing.approximate import recall
from indexing.engines import Device, cpu_nearest, gpu_count
from indexing.job import PARTS, BlockSearch, SearchSettings, SearchTask
from indexing.search import Block, Rules, nothing_found, search_block
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Command, run_command
from pipeline.storage import open_storage

IMAGENET = 1_281_167
"""Training images of ImageNet-1k."""
FEATURES = f"{PARTS}/features.npy"
"""Where the search of a folder finds its features."""
GPU_MEMORY_GB = 16.0
"""Host memory for the search on GPUs, in 10^9 bytes: ImageNet's features fit."""
COMPARED = 200
"""Queries whose neighbours on GPU and CPU are compared."""
Table = tuple[dict[str, Any], list[tuple[str, str]]]
_MEASURE_PEAK = """
import sys
from indexing.budget import peak_memory_gb
from indexing.job import BlockSearch, SearchSettings, SearchTask
from pipeline.storage import open_storage
folder, memory_gb, block, k = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
settings = SearchSettings(memory_gb=memory_gb, block=block)
BlockSearch(SearchTask(open_storage(folder), settings, k, None, False, "cpu", None)).run(0)
print(peak_memory_gb())
"""


class KnnBenchmark(Command):
    """Measure the neighbour search against FAISS's flat index called directly on the same arrays."""

    program: ClassVar[str] = "python -m benchmarks.knn"

    out: Path = Path("benchmarks/results/knn.json")
    """Result file."""
    device: Literal["cpu", "gpu"] = "cpu"
    """gpu: measure the search on all GPUs that FAISS finds."""
    rows: int = Field(100_000, ge=1000, le=COUNT_LIMIT)
    """Vectors."""
    width: int = Field(384, ge=2, le=2**16)
    """Values of a vector."""
    k: int = Field(5, ge=1, le=2000)
    """Neighbours."""
    block: int = Field(1024, ge=1, le=BATCH_LIMIT)
    """Queries in a block."""
    rounds: int = Field(40, ge=1, le=COUNT_LIMIT)
    """Blocks that are timed; on the CPU both search each in turns."""
    budgets: tuple[Annotated[float, Field(gt=0, le=COUNT_LIMIT)], ...] = (0.5, 1.0)
    """Memory budgets in 10^9 bytes whose peaks are measured; with the first, features of the default size stream."""


def make_features(rows: int, width: int) -> NDArray[np.float16]:
    """Unit vectors around a thousand centers, as images of a thousand classes might lie."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((1000, width), np.float32)
    features = centers[rng.integers(0, 1000, rows)] + rng.standard_normal((rows, width), np.float32)
    return np.asarray((features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16))


def compare(command: KnnBenchmark, folder: Path, features: NDArray[np.float16]) -> dict[str, Any]:
    """Queries per second of both, in turns."""
    base = features.astype(np.float32)
    index = faiss.IndexFlatIP(command.width)
    index.add(base)
    settings = SearchSettings(block=command.block)
    ours = BlockSearch(SearchTask(open_storage(str(folder)), settings, command.k, None, False, "cpu", None))
    ours.run(0)
    seconds: dict[str, list[float]] = {"floor": [], "ours": []}
    blocks = -(-command.rows // command.block)
    for turn in tqdm(range(command.rounds), desc="both searches", unit="block"):
        block = turn % blocks
        queries = base[block * command.block : (block + 1) * command.block]
        searches: dict[str, Callable[[], object]] = {
            "floor": functools.partial(index.search, queries, command.k + 1),
            "ours": functools.partial(ours.run, block),
        }
        for name in sorted(searches, reverse=bool(turn % 2)):  # each comes first in every second turn
            started = time.perf_counter()
            searches[name]()
            seconds[name].append((time.perf_counter() - started) / len(queries))
    ratios = np.divide(seconds["floor"], seconds["ours"]).tolist()
    return {
        "queries_per_second": 1 / statistics.median(seconds["ours"]),
        "floor_queries_per_second": 1 / statistics.median(seconds["floor"]),
        "of_the_floor": statistics.median(ratios),
        "of_the_floor_each": ratios,
    }


def growth(command: KnnBenchmark, features: NDArray[np.float16], nearest: Any) -> dict[int, float]:  # noqa: ANN401
    """Microseconds a query against the first quarter, half and all of the rows: medians of three turns each."""
    base = features.astype(np.float32)
    queries = base[: min(2048, command.rows // 4)]
    seconds: dict[int, list[float]] = {command.rows // 4: [], command.rows // 2: [], command.rows: []}
    for _ in range(3):
        for rows, taken in seconds.items():
            started = time.perf_counter()
            result = nothing_found(len(queries), command.k)
            search_block(np.arange(len(queries)), queries, Block(0, base[:rows]), result, Rules(command.k), nearest)
            taken.append((time.perf_counter() - started) / len(queries))
    return {rows: 1e6 * statistics.median(taken) for rows, taken in seconds.items()}


def peaks(command: KnnBenchmark, folder: Path) -> dict[str, float]:
    """Peak memory in 10^9 bytes of a process that searches one block, by its budget."""
    measured = {}
    for budget in command.budgets:
        arguments = map(str, (folder, budget, command.block, command.k))
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE_PEAK, *arguments], capture_output=True, text=True, check=True
        )
        measured[f"{budget:g}"] = float(done.stdout)
    return measured


def on_cpu(command: KnnBenchmark, folder: Path, features: NDArray[np.float16]) -> Table:
    """Figures and table rows of the search on the CPU."""
    figures = compare(command, folder, features)
    by_rows = growth(command, features, cpu_nearest)
    memory = peaks(command, folder)
    pairs_per_second = 1e6 * command.rows / by_rows[command.rows]
    hours = IMAGENET**2 / pairs_per_second / 3600
    cores = len(os.sched_getaffinity(0))
    figures |= {
        "microseconds_a_query_by_rows": {str(rows): value for rows, value in by_rows.items()},
        "peak_memory_gb_by_budget": memory,
        "imagenet_hours": hours,
        "imagenet_core_hours": hours * cores,
    }
    low, high = np.quantile(figures["of_the_floor_each"], (0.25, 0.75))
    message = f"{figures['of_the_floor']:.3f} (middle half of the rounds {low:.3f} to {high:.3f})"
    return figures, [
        ("queries/s", f"{figures['queries_per_second']:.0f} over {command.rows} x {command.width} on {cores} cores"),
        ("FAISS flat index called directly", f"{figures['floor_queries_per_second']:.0f}"),
        ("share of that speed", message),
        ("time a query", ", ".join(f"{rows}: {value:.0f} microseconds" for rows, value in by_rows.items())),
        ("peak memory", ", ".join(f"{peak:.2f} GB of {budget} GB" for budget, peak in memory.items())),
        ("ImageNet (1.28 M), projected", f"{hours:.1f} h on {cores} cores, {hours * cores:.1f} core hours"),
    ]


def beside_cpu(command: KnnBenchmark, folder: Path, features: NDArray[np.float16], device: Device) -> Table:
    """Figures and table rows of the search on `device`, and how far its neighbours are those of the CPU."""
    settings = SearchSettings(block=command.block, memory_gb=GPU_MEMORY_GB)
    ours, theirs = (
        BlockSearch(SearchTask(open_storage(str(folder)), settings, command.k, None, False, device, None))
        for device in (device, "cpu")
    )
    ours.run(0)  # reads the features, and warms up
    blocks = max(1, command.rows // command.block)  # whole ones
    seconds = []
    for turn in tqdm(range(command.rounds), desc="blocks of queries", unit="block"):
        started = time.perf_counter()
        ours.run(turn % blocks)
        seconds.append(time.perf_counter() - started)
    rate = min(command.block, command.rows) / statistics.median(seconds)
    rows = np.unique(np.linspace(0, command.rows - 1, COMPARED).astype(np.int64))
    queries = features[rows].astype(np.float32)
    agreement = recall(ours.exact(rows, queries).rows, theirs.exact(rows, queries).rows)
    whole = IMAGENET**2 / (rate * command.rows)
    figures = {
        "gpus": gpu_count(),
        "queries_per_second": rate,
        "agreement_with_cpu": agreement,
        "imagenet_gpu_seconds": whole,
    }
    return figures, [
        ("queries/s", f"{rate:.0f} over {command.rows} x {command.width} on {gpu_count()} GPUs"),
        ("neighbours that the CPU finds too", f"{100 * agreement:.2f} % of {len(rows)} queries"),
        ("ImageNet (1.28 M), projected", f"{whole:.0f} s"),
    ]


def main(command: KnnBenchmark) -> int:
    """Measure, print and write; returns the exit status."""
    if command.device == "gpu" and not gpu_count():
        print("FAISS finds no GPU: that takes an NVIDIA GPU and the wheel of `make setup FAISS=gpu`")
        return NOT_HERE
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        features = make_features(command.rows, command.width)
        (folder / PARTS).mkdir()
        np.save(folder / FEATURES, features)
        if command.device == "gpu":
            figures, table = beside_cpu(command, folder, features, "gpu")
        else:
            figures, table = on_cpu(command, folder, features)
    chosen = {name: getattr(command, name) for name in ("device", "rows", "width", "k", "block")}
    write_result(command.out, {"faiss": faiss.__version__, **chosen, **figures})
    print_table([*table, ("written to", str(command.out))], "Neighbour search")
    return 0


if __name__ == "__main__":
    run_command(KnnBenchmark, main)
