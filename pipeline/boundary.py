"""The outer boundary of a program: output that cannot be written, and unexpected exceptions."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

FAULT_STATUS = 70
"""Exit status after a fault of the program itself (EX_SOFTWARE)."""


class _Lasting:
    """A stream that never raises: it escapes unencodable characters and drops output that it cannot write."""

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # a closed pipe or a full disk: drop the buffer and all further output
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Context in which printing never raises, even if a character cannot be encoded or the pipe is closed."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and cast(TextIO, _Lasting(stream)) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def describe_fault(error: Exception) -> tuple[str, int]:
    """One line for an unexpected exception or a lack of memory, and the exit status."""
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words:
        return f"out of memory: {words or type(error).__name__}", 2
    kind = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"this is a fault of the program, please report it: {kind} ({_locations(error)})", FAULT_STATUS


def _locations(error: Exception) -> str:
    """The last frame of a traceback and all frames in this project, innermost first."""
    packages = {folder.parent for folder in Path(__file__).parents[1].glob("*/__init__.py")}
    frames = traceback.extract_tb(error.__traceback__)
    shown = [f for f in frames if f is frames[-1] or packages.intersection(Path(f.filename).parents)]
    return ", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(shown))
