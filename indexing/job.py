"""The search of all rows among themselves in blocks of queries, each written when done; here or on a Ray cluster."""

import functools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from tqdm import tqdm

import indexing
import pipeline
from indexing.approximate import ApproximateSearch, check_memory, recall
from indexing.budget import rows_in_memory
from indexing.engines import Device, make_nearest
from indexing.resume import begin, cannot_write
from indexing.search import Block, Neighbours, Rules, nothing_found, search_block
from indexing.store import FeatureFile, unpack
from pipeline.ray.actors import run_on_actors
from pipeline.ray.session import ray_session
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, FACTOR_LIMIT, THREAD_LIMIT, Settings, UserError
from pipeline.storage import Storage

PARTS = ".search"
_RAW = f"{PARTS}/features.npy"
_GROUPS = f"{PARTS}/groups.npy"
_RECALL_QUERIES = 1000


class SearchSettings(Settings):
    """How neighbours are searched; none of it but `approximate` and `probes` changes which are found."""

    where: Literal["auto", "here", "ray"] = "auto"
    """here: this process. ray: Ray actors over blocks of queries, on CPUs. auto: ray if RAY_ADDRESS is set."""
    device: Device = "auto"
    """Of a search in this process. auto: all GPUs that FAISS finds, else the CPU."""
    memory_gb: float = Field(4.0, gt=0, le=FACTOR_LIMIT)
    """Memory that a searching process may take, in 10^9 bytes; features that do not fit are read block by block."""
    block: int = Field(8192, ge=1, le=BATCH_LIMIT)
    """Queries searched at once: the unit of work and of resuming."""
    threads: int = Field(4, ge=1, le=THREAD_LIMIT)
    """Cores of one Ray actor; a search in this process takes all."""
    approximate: bool = False
    """Inverted lists (IVF) in place of the exact search; the report says what share of neighbours they find."""
    approximate_from: int = Field(4_000_000, ge=1, le=COUNT_LIMIT)
    """Fewest images for which that is allowed: below, exact search takes at most hours on one large machine."""
    probes: int = Field(32, ge=1, le=COUNT_LIMIT)
    """Inverted lists looked through for each query."""

    @model_validator(mode="after")
    def _ray_searches_exactly_on_cpus(self) -> "SearchSettings":
        if self.where == "ray" and (self.approximate or self.device == "gpu"):
            other = "search.approximate" if self.approximate else "search.device = gpu"
            raise ValueError(f"search.where = ray does not go with {other}: Ray actors search exactly, on CPUs")
        return self


@dataclass(frozen=True)
class SearchTask:
    """All that a process must know to search a block."""

    out: Storage
    settings: SearchSettings
    k: int
    max_similarity: float | None
    grouped: bool
    device: Device
    threads: int | None


class Found(NamedTuple):
    """The result of a search."""

    rows: NDArray[np.int32]
    """(N, k) row numbers."""
    similarity: NDArray[np.float32]
    """(N, k) inner products."""
    seconds: float
    """Time of all blocks, in whichever run and on however many machines they were done."""
    recall: float | None
    """Share of the exact neighbours that an approximate search found; None for an exact search."""


def _part(block: int) -> str:
    return f"{PARTS}/{block:08d}.npz"


class BlockSearch:
    """Searches blocks of queries; keeps the features in memory if they fit the budget."""

    def __init__(self, task: SearchTask) -> None:
        if task.threads is not None:
            faiss.omp_set_num_threads(task.threads)
        self._task, self._settings = task, task.settings
        self._base = FeatureFile(task.out, _RAW)
        rows = self._base.rows
        self._held = rows_in_memory(self._settings.memory_gb, rows, self._base.width, self._settings.block, task.k)
        self._nearest = make_nearest(task.device)
        groups = None
        if task.grouped:
            with task.out.open(_GROUPS) as stream:
                groups = np.load(stream)
        self._rules = Rules(task.k, task.max_similarity, groups)

    @cached_property
    def _everything(self) -> Block:
        return Block(0, self._base.read(0, self._base.rows))

    @cached_property
    def _buffer(self) -> NDArray[np.float32]:
        """Where blocks are read to, one after the other."""
        return np.empty((self._held, self._base.width), np.float32)

    @cached_property
    def _approximate(self) -> ApproximateSearch:
        return ApproximateSearch(self._base, self._settings.probes, min(self._held, 65_536))

    def _blocks(self) -> Iterator[Block]:
        if self._held == self._base.rows:
            yield self._everything
            return
        for start in range(0, self._base.rows, self._held):
            stop = min(start + self._held, self._base.rows)
            yield Block(start, self._base.read(start, stop, self._buffer))

    def exact(self, query_rows: NDArray[np.int64], queries: NDArray[np.float32]) -> Neighbours:
        """Exact neighbours of (n, D) `queries`, whose rows are `query_rows`."""
        result = nothing_found(len(queries), self._task.k)
        for base in self._blocks():
            result = search_block(query_rows, queries, base, result, self._rules, self._nearest)
        return result

    def approximate(self, query_rows: NDArray[np.int64], queries: NDArray[np.float32]) -> Neighbours:
        """Approximate neighbours; exact ones for queries to which the inverted lists give too few."""
        result = self._approximate(query_rows, queries, self._rules)
        short = np.flatnonzero(result.rows[:, -1] < 0)
        if len(short):
            result.rows[short], result.similarity[short] = self.exact(query_rows[short], queries[short])
        return result

    def recall(self) -> float:
        """Share of the exact neighbours that the approximate search finds, over queries spread evenly."""
        rows = np.unique(np.linspace(0, self._base.rows - 1, _RECALL_QUERIES).astype(np.int64))
        queries = np.concatenate([self._base.read(row, row + 1) for row in rows.tolist()])
        return recall(self.approximate(rows, queries).rows, self.exact(rows, queries).rows)

    def run(self, item: int) -> int:
        """Search block number `item` and write what was found; returns its number of queries."""
        started = time.perf_counter()
        first = item * self._settings.block
        last = min(first + self._settings.block, self._base.rows)
        rows, queries = np.arange(first, last), self._base.read(first, last)
        result = (self.approximate if self._settings.approximate else self.exact)(rows, queries)
        lacking = np.flatnonzero(result.rows[:, -1] < 0)
        if len(lacking):
            some = int((result.rows[lacking[0]] >= 0).sum())
            raise UserError(
                f"row {first + lacking[0]} has only {some} neighbours that --max_similarity and --exclude_same_group "
                f"allow, k is {self._task.k}: choose a smaller k or exclude less"
            )
        with self._task.out.atomic_write(_part(item)) as path, path.open("wb") as stream:
            np.savez(
                stream,
                rows=result.rows.astype(np.int32),
                similarity=result.similarity.astype(np.float32),
                seconds=np.float64(time.perf_counter() - started),
            )
        return last - first


def _prepare(out: Storage, identity: dict[str, Any], groups: NDArray[np.int64] | None) -> None:
    """Open the folder of finished blocks, with a raw copy of the features in it."""
    begin(out, PARTS, identity)
    if groups is not None:
        with out.atomic_write(_GROUPS) as path, path.open("wb") as stream:
            np.save(stream, groups)
    if out.size(_RAW) is None:
        unpack(out, _RAW)


def _use_ray(settings: SearchSettings) -> bool:
    return settings.where == "ray" or (settings.where == "auto" and bool(os.environ.get("RAY_ADDRESS")))


def run_search(
    out: Storage,
    settings: SearchSettings,
    k: int,
    max_similarity: float | None,
    groups: NDArray[np.int64] | None,
    identity: dict[str, Any],
) -> Found:
    """Search all blocks that are not there yet and gather the result; `close` removes the blocks.

    `identity` says what the result depends on; blocks of another identity are refused.

    Raises:
        UserError: the search cannot be done as asked.
    """
    try:
        _prepare(out, identity | {"block": settings.block}, groups)
        rows, width = (base := FeatureFile(out, _RAW)).rows, base.width
        rows_in_memory(settings.memory_gb, rows, width, settings.block, k)
        if settings.approximate:
            check_memory(settings.memory_gb, rows, width)
        ray = _use_ray(settings) and not settings.approximate
        threads = settings.threads if ray else None
        task = SearchTask(
            out, settings, k, max_similarity, groups is not None, "cpu" if ray else settings.device, threads
        )
        blocks = range(-(-rows // settings.block))
        pending = [block for block in blocks if out.size(_part(block)) is None]
        done = rows - sum(min(settings.block, rows - block * settings.block) for block in pending)
        current = None if ray else BlockSearch(task)
        with tqdm(total=rows, initial=done, unit="query", desc="search", smoothing=0) as bar:
            for queries in map(current.run, pending) if current else _on_ray(task, pending):
                bar.update(queries)
        return _gather(out, len(blocks), current.recall() if current and settings.approximate else None)
    except OSError as error:
        raise cannot_write(out, error) from error


def _on_ray(task: SearchTask, pending: list[int]) -> Iterator[int]:
    if not pending:
        return
    with ray_session(None, (pipeline, indexing)):
        cores = task.settings.threads
        for done in run_on_actors(functools.partial(BlockSearch, task), pending, str(task.out), cpus=cores):
            if task.out.size(_part(done.item)) is None:
                raise UserError(
                    f"{done.host} wrote a block to {task.out}, but this machine does not see it there: OUT must be on "
                    "storage that all nodes share"
                )
            yield done.result


def _gather(out: Storage, blocks: int, share: float | None) -> Found:
    rows, similarity, seconds = [], [], 0.0
    for block in range(blocks):
        with out.open(_part(block)) as stream, np.load(stream) as part:
            rows.append(part["rows"])
            similarity.append(part["similarity"])
            seconds += float(part["seconds"])
    return Found(np.concatenate(rows), np.concatenate(similarity), seconds, share)


def close(out: Storage) -> None:
    """Remove the finished blocks: the table holds them."""
    out.remove(PARTS)
