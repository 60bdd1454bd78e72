"""How much of the features a search may hold in memory: pure arithmetic, checked by measuring the peak."""

import re
from pathlib import Path

from indexing.search import MARGIN
from pipeline.settings import UserError

PROGRAM_BYTES = 400_000_000
"""Interpreter, NumPy, Arrow, FAISS and their scratch space; measured."""
_FEWEST_ROWS = 1024


def rows_in_memory(memory_gb: float, rows: int, width: int, queries: int, k: int) -> int:
    """Rows of the base that a search of `queries` at once may hold as float32 within `memory_gb` (10^9 bytes).

    Raises:
        UserError: so little memory that the search would mostly read.
    """
    of_queries = queries * (6 * width + 60 * (2 * k + 1 + MARGIN))
    free = memory_gb * 1e9 - PROGRAM_BYTES - of_queries
    fitting = int(free // (4 * width))
    fewest = min(rows, _FEWEST_ROWS)
    if fitting < fewest:
        needed = (PROGRAM_BYTES + of_queries + fewest * 4 * width) / 1e9
        raise UserError(
            f"search.memory_gb = {memory_gb:g} is too little for blocks of {queries} queries of width {width}: give at "
            f"least {needed:.2f}, or a smaller search.block"
        )
    return min(rows, fitting)


def peak_memory_gb() -> float:
    """Most memory that this program has held, in 10^9 bytes; unlike `getrusage`, without that of who started it."""
    result = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert result is not None
    return int(result[1]) * 1024 / 1e9
