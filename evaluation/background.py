"""Background threads: decoding ahead of the network, scoring and writing behind it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_ahead(
    pool: Executor, function: Callable[[ItemT], ResultT], items: Iterable[ItemT], depth: int
) -> Iterator[ResultT]:
    """Yield `function(item)` for each item, in order, with at most `depth` of them pending.

    Items are taken in the calling thread. An exception of `function` is raised in place of its result.
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
