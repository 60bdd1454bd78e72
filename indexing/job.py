"""Search of rows among themselves, or among those of another set, in blocks of queries, each written when done.

It runs in this process or on Ray.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator
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
from indexing.search import Block, Neighbours, Queries, Rules, no_neighbours, search_block
from indexing.store import FeatureFile, unpack
from pipeline.ray.actors import run_on_actors
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, FACTOR_LIMIT, THREAD_LIMIT, Settings, UserError
from pipeline.storage import Storage

PARTS = ".search"
_RAW, _QUERIES = f"{PARTS}/features.npy", f"{PARTS}/queries.npy"
_RECALL_QUERIES = 1000


class SearchSettings(Settings):
    """How neighbours are searched; only `approximate` and `probes` can change the result."""

    where: Literal["auto", "local", "ray"] = "auto"
    """local: this process. ray: Ray actors over blocks of queries, on CPUs. auto: ray if RAY_ADDRESS is set."""
    device: Device = "auto"
    """Device of a search in this process. auto: all GPUs that FAISS finds, else the CPU."""
    memory_gb: float = Field(4.0, gt=0, le=FACTOR_LIMIT)
    """Memory that a searching process may take, in 10^9 bytes; features that do not fit are read block by block."""
    block: int = Field(8192, ge=1, le=BATCH_LIMIT)
    """Queries searched at once: the unit of work and of resuming."""
    threads: int = Field(4, ge=1, le=THREAD_LIMIT)
    """Cores of one Ray actor; a search in this process takes all."""
    approximate: bool = False
    """Inverted lists (IVF) instead of the exact search; the report has their recall."""
    approximate_from: int = Field(4_000_000, ge=1, le=COUNT_LIMIT)
    """Fewest images for which that is allowed: with fewer, exact search takes at most hours on one large machine."""
    probes: int = Field(32, ge=1, le=COUNT_LIMIT)
    """Inverted lists searched for each query."""

    @model_validator(mode="after")
    def _ray_searches_exactly_on_cpus(self) -> "SearchSettings":
        if self.where == "ray" and (self.approximate or self.device == "gpu"):
            other = "search.approximate" if self.approximate else "search.device = gpu"
            raise ValueError(f"search.where = ray cannot be combined with {other}: Ray actors search exactly, on CPUs")
        return self


class SearchResult(NamedTuple):
    """The result of a search."""

    rows: NDArray[np.int32]
    """(N, k) row numbers."""
    similarity: NDArray[np.floating]
    """(N, k) inner products, exact in float64."""
    seconds: float
    """Total time of all blocks, over all runs and machines."""
    recall: float | None
    """Share of the exact neighbours that an approximate search finds; None for an exact search."""


def _part(block: int) -> str:
    return f"{PARTS}/{block:08d}.npz"


class BlockSearch:
    """Searches blocks of queries; keeps the features in memory if they fit the budget."""

    def __init__(
        self,
        out: Storage,
        settings: SearchSettings,
        rules: Rules,
        threads: int | None = None,
        among_others: bool = False,
    ) -> None:
        """Search the features unpacked in `out`; `threads` None takes all cores.

        With `among_others` the queries are a file of their own; otherwise they are the features themselves.
        """
        if threads is not None:
            faiss.omp_set_num_threads(threads)
        self._threads = threads or len(os.sched_getaffinity(0))
        self._out, self._settings, self._rules = out, settings, rules
        self._base, self._among_others = FeatureFile(out, _RAW), among_others
        self._queries = FeatureFile(out, _QUERIES) if among_others else self._base
        rows, width = self._base.rows, self._base.width
        self._held = rows_in_memory(settings.memory_gb, rows, width, settings.block, rules.k)
        self._nearest = make_nearest(settings.device)

    @cached_property
    def _everything(self) -> Block:
        return Block(0, self._base.read(0, self._base.rows))

    @cached_property
    def _buffer(self) -> NDArray[np.float32]:
        """Buffer into which one block after the other is read."""
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
        """Exact neighbours of (n, D) `queries` with (n,) row numbers `query_rows`."""
        searched, result = Queries(query_rows, queries), no_neighbours(len(queries), self._rules.k)
        for base in self._blocks():
            result = search_block(searched, base, result, self._rules, self._nearest, self._threads)
        return result

    def approximate(self, query_rows: NDArray[np.int64], queries: NDArray[np.float32]) -> Neighbours:
        """Approximate neighbours; exact ones for queries for which the inverted lists hold too few."""
        result = self._approximate(query_rows, queries, self._rules)
        short = np.flatnonzero(result.rows[:, -1] < 0)
        if len(short):
            result.rows[short], result.similarity[short] = self.exact(query_rows[short], queries[short])
        return result

    def recall(self) -> float:
        """Share of the exact neighbours that the approximate search finds, over evenly spaced queries."""
        rows = np.unique(np.linspace(0, self._base.rows - 1, _RECALL_QUERIES).astype(np.int64))
        queries = np.concatenate([self._base.read(row, row + 1) for row in rows.tolist()])
        return recall(self.approximate(rows, queries).rows, self.exact(rows, queries).rows)

    def run(self, item: int) -> int:
        """Search block number `item` and write the result; returns its number of queries."""
        started = time.perf_counter()
        first = item * self._settings.block
        last = min(first + self._settings.block, self._queries.rows)
        rows, queries = np.arange(first, last), self._queries.read(first, last)
        if self._among_others:
            rows = np.full_like(rows, -1)  # no row of the base is the query itself
        result = (self.approximate if self._settings.approximate else self.exact)(rows, queries)
        incomplete = np.flatnonzero(result.rows[:, -1] < 0)
        if len(incomplete):
            allowed = int((result.rows[incomplete[0]] >= 0).sum())
            raise UserError(
                f"row {first + incomplete[0]} has only {allowed} neighbours that --max_similarity and "
                f"--exclude_same_group allow, but k = {self._rules.k}: choose a smaller k or exclude less"
            )
        with self._out.atomic_write(_part(item)) as path, path.open("wb") as stream:
            np.savez(
                stream,
                rows=result.rows.astype(np.int32),
                similarity=result.similarity,
                seconds=np.float64(time.perf_counter() - started),
            )
        return last - first


def run_search(
    out: Storage,
    settings: SearchSettings,
    rules: Rules,
    identity: dict[str, Any],
    others: tuple[Storage, Storage] | None = None,
) -> SearchResult:
    """Search all blocks that are missing and gather the result; `close` removes the blocks.

    Args:
        out: folder of the blocks, and of the features if there are no `others`.
        settings: how to search.
        rules: which rows may be neighbours.
        identity: what the result depends on; blocks of another identity are refused.
        others: folders with the features of the base and of the queries; by default the rows are searched among
            themselves.

    Raises:
        UserError: the search is impossible with these settings.
    """
    try:
        begin(out, PARTS, identity | {"block": settings.block})
        for source, name in zip(others or (out,), (_RAW, _QUERIES), strict=False):
            if out.size(name) is None:
                unpack(source, out, name)
        base = FeatureFile(out, _RAW)
        total = FeatureFile(out, _QUERIES if others else _RAW).rows
        rows_in_memory(settings.memory_gb, base.rows, base.width, settings.block, rules.k)
        if settings.approximate:
            check_memory(settings.memory_gb, base.rows, base.width)
        blocks = range(-(-total // settings.block))
        pending = [block for block in blocks if out.size(_part(block)) is None]
        done = total - sum(min(settings.block, total - block * settings.block) for block in pending)
        make = functools.partial(BlockSearch, out, rules=rules, among_others=others is not None)
        local = None if _use_ray(settings) else make(settings)
        with tqdm(total=total, initial=done, unit="query", desc="search", smoothing=0) as bar:
            for queries in map(local.run, pending) if local else _on_ray(out, settings, make, pending):
                bar.update(queries)
        return _gather(out, len(blocks), local.recall() if local and settings.approximate else None)
    except OSError as error:
        raise cannot_write(out, error) from error


def _use_ray(settings: SearchSettings) -> bool:
    chosen = settings.where == "ray" or (settings.where == "auto" and bool(os.environ.get("RAY_ADDRESS")))
    return chosen and not settings.approximate


def _on_ray(
    out: Storage, settings: SearchSettings, make: Callable[..., BlockSearch], pending: list[int]
) -> Iterator[int]:
    if not pending:
        return
    from pipeline.ray.session import ray_session  # loads Ray

    on_cpu = settings.model_copy(update={"device": "cpu"})
    search = functools.partial(make, on_cpu, threads=settings.threads)
    with ray_session(None, (pipeline, indexing)):
        for done in run_on_actors(search, pending, str(out), cpus=settings.threads):
            if out.size(_part(done.item)) is None:
                raise UserError(
                    f"{done.host} wrote a block to {out}, but this machine does not see it: OUT must be on storage "
                    "that all nodes share"
                )
            yield done.result


def _gather(out: Storage, blocks: int, recall: float | None) -> SearchResult:
    rows, similarity, seconds = [], [], 0.0
    for block in range(blocks):
        with out.open(_part(block)) as stream, np.load(stream) as part:
            rows.append(part["rows"])
            similarity.append(part["similarity"])
            seconds += float(part["seconds"])
    return SearchResult(np.concatenate(rows), np.concatenate(similarity), seconds, recall)


def close(out: Storage) -> None:
    """Remove the finished blocks, once the table is written."""
    out.remove(PARTS)
