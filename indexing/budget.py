"""How many rows of the features a search may hold in memory, and the peak memory of this process."""

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
        UserError: too little memory: the search would spend its time reading.
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
    """Peak memory of this process in 10^9 bytes; unlike `getrusage`, without that of its parent."""
    result = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert result is not None
    return int(result[1]) * 1024 / 1e9
