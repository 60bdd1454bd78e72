"""Work of worker threads that runs beside the network: decoding ahead of it, scoring and writing behind it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_ahead(
    pool: Executor, function: Callable[[ItemT], ResultT], items: Iterable[ItemT], depth: int
) -> Iterator[ResultT]:
    """Yield `function(item)` of each item, in order, with at most `depth` of them under way or waiting to be taken.

    The items are drawn in the calling thread. What `function` raises is raised where its result would come.
    """
    waiting: deque[Future[ResultT]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while len(waiting) >= depth or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
