"""`make bench-knn`: the neighbour search against FAISS's flat index on the same arrays, its memory, and its growth.

Both searches take turns on the same blocks of queries in one process, so that other load on the machine affects both;
the figure is the median of the ratios. With `--device gpu` the search on the GPUs is measured instead, and some of its
neighbours are compared with those of the CPU.
"""

import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any, ClassVar, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from benchmarks.programs import call_in_new_process
from benchmarks.result import UNAVAILABLE, report
from indexing.approximate import recall
from indexing.budget import peak_memory_gb
from indexing.engines import Device, cpu_nearest, gpu_count
from indexing.job import PARTS, BlockSearch, SearchSettings
from indexing.search import MARGIN, Block, Queries, Rules, no_neighbours, search_block
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Command, run_command
from pipeline.storage import open_storage

IMAGENET = 1_281_167
"""Training images of ImageNet-1k."""
FEATURES = f"{PARTS}/features.npy"
"""File from which the search of a folder reads its features."""
GPU_MEMORY_GB = 16.0
"""Host memory for the search on GPUs, in 10^9 bytes: ImageNet's features fit."""
HOST_QUERIES = 256
"""Different queries whose candidates are scored to measure the work beside FAISS."""
COMPARED = 200
"""Queries whose neighbours on GPU and CPU are compared."""
Result = tuple[dict[str, Any], list[tuple[str, str]]]
"""Figures, and rows of the printed table."""


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
    """Blocks that are timed; on the CPU both search each block in turn."""
    budgets: tuple[Annotated[float, Field(gt=0, le=COUNT_LIMIT)], ...] = (0.5, 1.0)
    """Memory budgets in 10^9 bytes whose peaks are measured; with the first, features of the default size stream."""


def make_features(rows: int, width: int) -> NDArray[np.float16]:
    """Unit vectors around a thousand centers, like images of a thousand classes."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((1000, width), np.float32)
    features = centers[rng.integers(0, 1000, rows)] + rng.standard_normal((rows, width), np.float32)
    return np.asarray((features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16))


def block_search(command: KnnBenchmark, folder: Path, device: Device = "cpu", memory_gb: float = 4.0) -> BlockSearch:
    """The search of the features in `folder`."""
    settings = SearchSettings(block=command.block, device=device, memory_gb=memory_gb)
    return BlockSearch(open_storage(str(folder)), settings, Rules(command.k))


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(command: KnnBenchmark, folder: Path, features: NDArray[np.float16]) -> dict[str, Any]:
    """Queries per second of both, in turn."""
    base = features.astype(np.float32)
    index = faiss.IndexFlatIP(command.width)
    index.add(base)
    search = block_search(command, folder)
    search.run(0)
    seconds: dict[str, list[float]] = {"floor": [], "ours": []}
    blocks = -(-command.rows // command.block)
    for turn in tqdm(range(command.rounds), desc="both searches", unit="block"):
        block = turn % blocks
        queries = base[block * command.block : (block + 1) * command.block]
        searches: dict[str, Callable[[], object]] = {
            "floor": functools.partial(index.search, queries, command.k + 1),
            "ours": functools.partial(search.run, block),
        }
        for name in sorted(searches, reverse=bool(turn % 2)):  # alternately first
            seconds[name].append(seconds_of(searches[name]) / len(queries))
    ratios = np.divide(seconds["floor"], seconds["ours"]).tolist()
    return {
        "queries_per_second": 1 / median(seconds["ours"]),
        "floor_queries_per_second": 1 / median(seconds["floor"]),
        "of_the_floor": median(ratios),
        "of_the_floor_each": ratios,
    }


def growth(command: KnnBenchmark, features: NDArray[np.float16]) -> dict[int, float]:
    """Microseconds per query against the first quarter, half and all of the rows: medians of three turns each."""
    base = features.astype(np.float32)
    queries = base[: min(2048, command.rows // 4)]
    seconds: dict[int, list[float]] = {command.rows // 4: [], command.rows // 2: [], command.rows: []}
    query_rows, nothing = np.arange(len(queries)), no_neighbours(len(queries), command.k)
    for _ in range(3):
        for rows, taken in seconds.items():
            arguments = (Queries(query_rows, queries), Block(0, base[:rows]), nothing, Rules(command.k), cpu_nearest)
            taken.append(seconds_of(functools.partial(search_block, *arguments)) / len(queries))
    return {rows: 1e6 * median(taken) for rows, taken in seconds.items()}


def host_rate(command: KnnBenchmark, features: NDArray[np.float16]) -> float:
    """Queries per second of all that a search does beside FAISS, which is the most that GPUs can reach."""
    base = Block(0, features.astype(np.float32))
    few = np.arange(min(HOST_QUERIES, command.rows))
    similarity, positions = cpu_nearest(base.features[few], base, min(command.k + 1 + MARGIN, command.rows))
    rows = np.resize(few, command.block)
    queries, nothing = Queries(rows, base.features[rows]), no_neighbours(len(rows), command.k)
    threads = len(os.sched_getaffinity(0))

    def search() -> None:
        found = similarity[rows], positions[rows]
        search_block(queries, base, nothing, Rules(command.k), lambda *_: found, threads)

    return len(rows) / median(seconds_of(search) for _ in range(3))


def peak_of_search(command: KnnBenchmark, folder: Path, memory_gb: float) -> float:
    """Peak memory of this process in 10^9 bytes after searching one block with a budget."""
    block_search(command, folder, memory_gb=memory_gb).run(0)
    return peak_memory_gb()


def on_cpu(command: KnnBenchmark, folder: Path, features: NDArray[np.float16]) -> Result:
    """The search on the CPU beside FAISS's."""
    figures = compare(command, folder, features)
    by_rows = growth(command, features)
    memory = {f"{gb:g}": call_in_new_process(peak_of_search, command, folder, gb) for gb in command.budgets}
    pairs_per_second = 1e6 * command.rows / by_rows[command.rows]
    hours = IMAGENET**2 / pairs_per_second / 3600
    cores = len(os.sched_getaffinity(0))
    figures |= {
        "microseconds_a_query_by_rows": {str(rows): value for rows, value in by_rows.items()},
        "peak_memory_gb_by_budget": memory,
        "host_queries_per_second": host_rate(command, features),
        "imagenet_hours": hours,
        "imagenet_core_hours": hours * cores,
    }
    low, high = np.quantile(figures["of_the_floor_each"], (0.25, 0.75))
    share = f"{figures['of_the_floor']:.3f} (middle half of the rounds {low:.3f} to {high:.3f})"
    return figures, [
        ("queries/s", f"{figures['queries_per_second']:.0f} over {command.rows} x {command.width} on {cores} cores"),
        ("FAISS flat index called directly", f"{figures['floor_queries_per_second']:.0f}"),
        ("share of that speed", share),
        ("time per query", ", ".join(f"{rows}: {value:.0f} microseconds" for rows, value in by_rows.items())),
        ("peak memory", ", ".join(f"{peak:.2f} GB of {budget} GB" for budget, peak in memory.items())),
        ("queries/s beside FAISS", f"{figures['host_queries_per_second']:.0f}"),
        ("ImageNet (1.28 M), projected", f"{hours:.1f} h on {cores} cores, {hours * cores:.1f} core hours"),
    ]


def beside_cpu(command: KnnBenchmark, folder: Path, features: NDArray[np.float16], device: Device) -> Result:
    """The search on `device`, and the share of the CPU's neighbours that it finds."""
    search, on_cpu = (block_search(command, folder, device, GPU_MEMORY_GB) for device in (device, "cpu"))
    search.run(0)  # reads the features, and warms up
    blocks = max(1, command.rows // command.block)  # whole ones
    turns = tqdm(range(command.rounds), desc="blocks of queries", unit="block")
    seconds = [seconds_of(functools.partial(search.run, turn % blocks)) for turn in turns]
    rate = min(command.block, command.rows) / median(seconds)
    rows = np.unique(np.linspace(0, command.rows - 1, COMPARED).astype(np.int64))
    queries = features[rows].astype(np.float32)
    agreement = recall(search.exact(rows, queries).rows, on_cpu.exact(rows, queries).rows)
    whole = IMAGENET**2 / (rate * command.rows)
    figures = {
        "gpus": gpu_count(),
        "queries_per_second": rate,
        "host_queries_per_second": host_rate(command, features),
        "agreement_with_cpu": agreement,
        "imagenet_gpu_seconds": whole,
    }
    return figures, [
        ("queries/s", f"{rate:.0f} over {command.rows} x {command.width} on {gpu_count()} GPUs"),
        ("queries/s beside FAISS", f"{figures['host_queries_per_second']:.0f}"),
        ("neighbours that the CPU finds too", f"{100 * agreement:.2f} % of {len(rows)} queries"),
        ("ImageNet (1.28 M), projected", f"{whole:.0f} s"),
    ]


def main(command: KnnBenchmark) -> int:
    """Measure, print and write; returns the exit status."""
    if command.device == "gpu" and not gpu_count():
        print("FAISS finds no GPU: that takes an NVIDIA GPU and the wheel of `make setup FAISS=gpu`")
        return UNAVAILABLE
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features = make_features(command.rows, command.width)
        (folder / PARTS).mkdir()
        np.save(folder / FEATURES, features)
        if command.device == "gpu":
            figures, rows = beside_cpu(command, folder, features, "gpu")
        else:
            figures, rows = on_cpu(command, folder, features)
    chosen = {name: getattr(command, name) for name in ("device", "rows", "width", "k", "block")}
    report(command.out, {"faiss": faiss.__version__, **chosen, **figures}, rows, "Neighbour search")
    return 0


if __name__ == "__main__":
    run_command(KnnBenchmark, main)
