"""Check shards in several processes, with a bounded number of them in flight."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

import pyarrow as pa

from pipeline.dataset import Shard
from pipeline.settings import UserError
from pipeline.verify.finding import Finding


def _begin_worker() -> None:
    """Leave Ctrl-C to the main process, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def check_all(
    check: Callable[[Shard, pa.Table | None], list[Finding]],
    shards: Iterable[tuple[Shard, pa.Table | None]],
    workers: int,
) -> Iterator[tuple[Shard, list[Finding]]]:
    """Yield each shard with the findings of `check(shard, index_rows)`, in the order of the shards.

    Raises:
        UserError: a process was killed.
    """
    if workers == 1:
        yield from ((shard, check(shard, rows)) for shard, rows in shards)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker)
    running: deque[tuple[Shard, Future[list[Finding]]]] = deque()
    try:
        for shard, rows in shards:
            running.append((shard, pool.submit(check, shard, rows)))
            if len(running) > 2 * workers:
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise UserError("a process of the check was killed, possibly out of memory: try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)
