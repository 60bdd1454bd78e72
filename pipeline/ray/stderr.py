"""Filter what C++ libraries write to stderr, which bypasses `sys.stderr`."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_lines(*containing: bytes) -> Iterator[None]:
    """Collect the block's output to stderr, then write it without the lines that contain one of these texts.

    It is kept in memory, so a full temporary folder loses nothing.
    """
    sys.stderr.flush()
    with os.fdopen(os.memfd_create("stderr"), "r+b") as kept, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)
            kept.seek(0)
            stderr.writelines(line for line in kept if not any(text in line for text in containing))
