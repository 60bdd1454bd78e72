"""Atomic writes: a file is either complete under its final name or does not exist."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.settings import UserError

TEMPORARY_PREFIX = ".tmp-"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; other kinds raise OSError, and a named pipe does not block."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def _temporary_name(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:12]}")  # unique among machines


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is fsynced and renamed to `path`, otherwise removed.

    The body may write one file or make one directory there. A directory replaces one that is empty or only holds files
    named in `replaces`; a file replaces any file, so callers must check names given by a user. Symbolic links are
    followed: the link stays and its target is replaced. The parent directory is created. A killed process may leave a
    name starting with `TEMPORARY_PREFIX`, never an incomplete `path`.

    Raises:
        UserError: a directory at `path` holds other files, which are not touched.
        OSError: `path` is a device such as /dev/null, or a directory instead of a file or vice versa.
    """
    if path.name in ("", ".."):
        raise OSError(errno.EINVAL, "must be given by its name, not as a dot", str(path))
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "is a device, not a file or folder", str(path))
    if path.is_dir():
        refuse_others(path, replaces)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        yield temporary
        if temporary.is_dir():
            for file in temporary.rglob("*"):
                _sync(file)
            _sync(temporary)
            if path.is_dir():
                refuse_others(path, replaces)
                remove_files(path, replaces)
        else:
            _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        remove(temporary)
        raise


def refuse_others(folder: Path, names: Collection[str]) -> None:
    """Check that a folder only holds files named in `names`.

    Raises:
        UserError: it holds another one.
    """
    with os.scandir(folder) as entries:
        others = sorted(e.name for e in entries if e.name not in names or not e.is_file(follow_symlinks=False))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(
            f"{folder} holds {others[0]}{more}, which this program did not write, and is not replaced: "
            "give another name, or move that folder away"
        )


def remove_files(folder: Path, names: Collection[str]) -> None:
    """Remove the files in `names`, in this order, and then the folder if it is empty.

    If `folder` is a symbolic link, nothing is removed.
    """
    if folder.is_symlink():
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock among all processes and threads of this machine, and yield whether it is held.

    Without `wait`, yield False at once if another process holds it. A lock ends with its process; the file stays.
    """
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def as_json(content: object) -> bytes:
    """Indented JSON with a newline at its end."""
    return json.dumps(content, indent=2).encode() + b"\n"


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove(path: Path) -> None:
    """Remove a file or a whole directory, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
