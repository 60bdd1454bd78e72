"""`make bench-workers`: memory of the workers of a DataLoader over an index of a million rows.

Beside `pipeline.ClipDataset` stand a dataset that reads nothing, which is what torch itself takes, and the index as a
table that every worker holds for itself, as the program "PyTorch alone" of docs/format.md does. Every pair of dataset
and start method runs in a process of its own. A worker's own memory is its private pages (USS) without those of the
shared index: the index is in memory once, but a page of it that one process alone has touched counts as private there.
The memory of all processes is the sum of their PSS, in which every shared page that was touched counts once.
"""

import json
import os
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field
from tqdm import tqdm

from benchmarks.made_shards import make_shards
from benchmarks.programs import call_in_new_process
from benchmarks.result import report
from pipeline.clips import ClipDataset
from pipeline.dataset import INDEX, INDEX_SCHEMA, MANIFEST, Shard
from pipeline.sampling.frames import Uniform
from pipeline.settings import COUNT_LIMIT, THREAD_LIMIT, Command, run_command

Kind = Literal["nothing", "ClipDataset", "a table of its own"]
KINDS: tuple[Kind, ...] = ("nothing", "ClipDataset", "a table of its own")
Figures = dict[str, float]
ROWS_PER_SHARD = 1000


class WorkersBenchmark(Command):
    """Measure the memory of DataLoader workers, forked and spawned, and the size of a pickled dataset."""

    program: ClassVar[str] = "python -m benchmarks.workers"

    rows: int = Field(1_300_000, ge=ROWS_PER_SHARD, le=COUNT_LIMIT)
    """Samples in the index, rounded down to thousands."""
    frames: int = Field(1, ge=1, le=1000)
    """Frames of each sample."""
    workers: int = Field(4, ge=1, le=THREAD_LIMIT)
    """Workers of the DataLoader."""
    visits: int = Field(500, ge=1, le=COUNT_LIMIT)
    """Random samples that each worker reads before it is measured."""
    out: Path = Path("benchmarks/results/workers.json")
    """Result file."""


def make_large(folder: Path, rows: int, frames: int) -> Path:
    """A dataset whose index has `rows` rows in shards of a thousand, which store one clip."""
    make_shards(folder, 1, frames, per_shard=1)
    [shard] = folder.glob("*.tar")
    row = pq.read_table(folder / INDEX).to_pylist()[0]
    manifest = json.loads((folder / MANIFEST).read_text())
    count = rows // ROWS_PER_SHARD
    names = [f"shard-{number:06d}.tar" for number in range(count)]
    for name in names[1:]:
        os.link(shard, folder / name)
    numbers = np.arange(count * ROWS_PER_SHARD)
    repeated = pa.Table.from_pylist([row], INDEX_SCHEMA).take(np.zeros(len(numbers), np.int64))
    columns = {
        "key": [f"n{number % 1000:08d}_{number}" for number in numbers],
        "source": [f"n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG" for number in numbers],
        "shard": np.repeat(names, ROWS_PER_SHARD),
    }
    for name, values in columns.items():
        index = INDEX_SCHEMA.get_field_index(name)
        repeated = repeated.set_column(index, INDEX_SCHEMA.field(index), pa.array(values, pa.string()))
    pq.write_table(repeated.cast(INDEX_SCHEMA), folder / INDEX, row_group_size=ROWS_PER_SHARD)
    entry = Shard.model_validate(manifest["shards"][0] | {"samples": ROWS_PER_SHARD}).model_dump()
    manifest |= {"shards": [entry | {"file": name} for name in names], "samples": len(numbers)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


class Nothing(torch.utils.data.Dataset[int]):
    """As many samples, without data."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> int:
        return row


class OwnTable(torch.utils.data.Dataset[int]):
    """The index as an Arrow table that each process holds for itself."""

    def __init__(self, folder: Path) -> None:
        self._index = pq.read_table(folder / INDEX)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, row: int) -> int:
        return int(self._index.slice(row, 1)["frame_size"][0].as_py()[0])


def _dataset(kind: Kind, folder: Path) -> Any:  # noqa: ANN401 - any map-style dataset
    if kind == "ClipDataset":
        return ClipDataset(folder, Uniform(1))
    return Nothing(10**6) if kind == "nothing" else OwnTable(folder)


def memory_mb(process: int) -> tuple[float, float]:
    """Private pages without those of shared tables, and proportional pages (PSS), of a process in 10^6 bytes."""
    private, proportional, shared = 0, 0, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name:  # the head of a mapping: addresses, access, file
            shared = "/memfd:table" in value
        elif name == "Pss":
            proportional += int(value.split()[0])
        elif name in ("Private_Clean", "Private_Dirty") and not shared:
            private += int(value.split()[0])
    return 1024 * private / 1e6, 1024 * proportional / 1e6


def _first(batch: list[Any]) -> int:
    return len(batch)


def measure(kind: Kind, method: str, folder: Path, workers: int, visits: int) -> Figures:
    """Memory of a worker, as the mean of all, after each has read `visits` random samples."""
    dataset = _dataset(kind, folder)
    rows = np.random.default_rng(0).integers(len(dataset), size=visits * workers).tolist()
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=10,
        sampler=rows,
        num_workers=workers,
        collate_fn=_first,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    started = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first_s = time.perf_counter() - started
    for _ in batches:
        pass
    of_workers = [memory_mb(int(worker.pid)) for worker in batches._workers]  # type: ignore[attr-defined]
    return {
        "own_mb": float(np.mean([own for own, _ in of_workers])),
        "all_processes_mb": sum(pss for _, pss in [*of_workers, memory_mb(os.getpid())]),
        "shared_index_mb": sum(part._index.table.nbytes for part in getattr(dataset, "datasets", [])) / 1e6,
        "pickle_bytes": len(pickle.dumps(dataset)),
        "first_batch_s": first_s,
    }


def main(command: WorkersBenchmark) -> None:
    """Measure, print and write."""
    figures: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_large(Path(temporary, "large"), command.rows, command.frames)
        pairs = [(method, kind) for method in ("fork", "spawn") for kind in KINDS]
        for method, kind in tqdm(pairs, desc="workers", unit="loader"):
            result = call_in_new_process(measure, kind, method, folder, command.workers, command.visits)
            figures.setdefault(method, {})[kind] = result
    rows = []
    for method, kinds in figures.items():
        for name, result in kinds.items():
            own, everything = (result[figure] - kinds["nothing"][figure] for figure in ("own_mb", "all_processes_mb"))
            text = (
                f"{result['own_mb']:.0f} MB of its own ({own:+.0f}), all processes {result['all_processes_mb']:.0f} MB"
            )
            text += f" ({everything:+.0f}), pickle {result['pickle_bytes'] / 1e3:,.1f} kB"
            rows.append((f"{method}, {name}", f"{text}, first batch after {result['first_batch_s']:.1f} s"))
    shared = figures["fork"]["ClipDataset"]["shared_index_mb"]
    rows.append(("index of ClipDataset", f"{shared:.0f} MB, once for all processes"))
    size = {"rows": command.rows, "frames": command.frames, "workers": command.workers, "visits": command.visits}
    title = f"Each of {command.workers} workers, {command.rows:,} rows of {command.frames} frames (beside nothing)"
    report(command.out, {**size, "loaders": figures}, rows, title)


if __name__ == "__main__":
    run_command(WorkersBenchmark, main)
