"""Temporary folders, and messages if there is no room for them."""

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.settings import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_ADVICE = "make room there, or set TMPDIR to another folder"
_LEAST_FREE_BYTES = 32 << 20
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def no_temporary_files(reason: object) -> UserError:
    """The error for temporary files that cannot be written."""
    folder = tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")
    return UserError(f"cannot write temporary files to {folder}: {reason}; {_ADVICE}")


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder below TMPDIR, removed when the block ends.

    Raises:
        UserError: it cannot be created.
    """
    try:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError as error:
        raise no_temporary_files(error.strerror or error) from error
    with folder as path:
        yield Path(path)


@contextlib.contextmanager
def temporary_database() -> Iterator[sqlite3.Connection]:
    """An empty database on disk, for lists that may not fit in memory; removed when the block ends.

    Raises:
        UserError: it cannot be written.
    """
    with temporary_folder() as folder, contextlib.closing(sqlite3.connect(folder / "database")) as database:
        try:
            yield database
        except sqlite3.OperationalError as error:
            raise no_temporary_files(error) from error


@contextlib.contextmanager
def full_disk_is_temporary() -> Iterator[None]:
    """Report a full disk as one of temporary files, in a block that writes no others; the OSError names no file.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise no_temporary_files(error.strerror) from error


def _unfit(folder: str, longest: int) -> str:
    """Why a folder is not suitable for another one, whose own path is at most `longest` bytes long; empty if it is."""
    if (length := len(os.fsencode(folder))) > longest:
        return f"its path has {length} bytes, more than the {longest} that sockets leave"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return f"only {free >> 20} MB are free" if free < _LEAST_FREE_BYTES else ""


@contextlib.contextmanager
def short_folder(longest: int) -> Iterator[Path]:
    """A new private folder for sockets and logs whose path has at most `longest` bytes, removed when the block ends.

    It is created in TMPDIR if that is short enough and has room, else in one of the usual folders: the path of a socket
    has at most 107 bytes, and the TMPDIR of schedulers is often long.

    Raises:
        UserError: no folder is short enough and has room.
    """
    suffix = len("/ray-12345678")
    folders = dict.fromkeys((os.environ.get("TMPDIR", ""), *_SHORT_FOLDERS))
    reasons = []
    for folder in filter(None, folders):
        if reason := _unfit(folder, longest - suffix):
            reasons.append(f"{folder}: {reason}")
            continue
        try:
            made = tempfile.mkdtemp(prefix="ray-", dir=folder)
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
            continue
        try:
            yield Path(made)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    raise UserError(
        f"no folder can hold Ray's sockets and logs ({'; '.join(reasons)}): set TMPDIR to a short path with room"
    )
