"""End a program at Ctrl-C in one line while its libraries are being imported.

The packages of this project import this module first. It has no effect in other programs.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def _is_program() -> bool:
    """Whether Python was started with a program of this project: `-m PACKAGE` or `training/pretrain.py`."""
    started = sys.argv[0] if sys.argv else ""  # "-m" until the module's parent packages are imported
    return started == "-m" or Path(started).resolve().parents[1:2] == Path(__file__).resolve().parents[1:2]


def _end_now(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted before anything was done\n")
    os._exit(128 + number)  # an exception could be swallowed by a library


def begin() -> None:
    """From now on, Ctrl-C ends the program at once, unless it is ignored or has another handler."""
    if _is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)


def end() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _end_now:
        signal.signal(signal.SIGINT, signal.default_int_handler)


begin()
