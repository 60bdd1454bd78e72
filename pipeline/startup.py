"""End a program in one line at Ctrl-C, or if an optional package is missing, while its libraries are being imported.

The packages of this project import this module first. It has no effect in other programs.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType

from pipeline.extras import missing_extra, running_program


def _is_program() -> bool:
    """Whether Python was started with a program of this project: `-m PACKAGE` or `training/pretrain.py`."""
    started = sys.argv[0] if sys.argv else ""  # "-m" until the module's parent packages are imported
    return started == "-m" or Path(started).resolve().parents[1:2] == Path(__file__).resolve().parents[1:2]


def _end_now(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted before anything was done\n")
    os._exit(128 + number)  # an exception could be swallowed by a library


def _end_if_missing(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    message = missing_extra(error, running_program(sys.orig_argv)) if isinstance(error, ImportError) else None
    if message is None:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(2)  # Python would end with 1


def begin() -> None:
    """From now on, Ctrl-C and a missing package end the program at once, unless there is another handler."""
    if _is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)
    if _is_program() and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _end_if_missing


def end() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt, and a missing package an ImportError."""
    if signal.getsignal(signal.SIGINT) is _end_now:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.excepthook is _end_if_missing:
        sys.excepthook = sys.__excepthook__


begin()
