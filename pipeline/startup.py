"""Ctrl-C in the first seconds of a program, while its libraries are imported, ends it in one line.

The packages of this project import this module first. In a program of somebody else it does nothing.
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
    os._exit(128 + number)  # an exception would surface somewhere in a library, or be swallowed by it


def begin() -> None:
    """End the program at Ctrl-C from now on, unless it ignores it or handles it otherwise."""
    if _is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)


def end() -> None:
    """From now on, Ctrl-C is an exception."""
    if signal.getsignal(signal.SIGINT) is _end_now:
        signal.signal(signal.SIGINT, signal.default_int_handler)


begin()
