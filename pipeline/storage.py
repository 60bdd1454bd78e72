"""A folder on a disk or in an object store, whose files are either complete under their name or not there."""

import contextlib
import errno
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import unquote_to_bytes

import fsspec
import pyarrow.parquet as pq
from pydantic import BeforeValidator

from pipeline.files import TEMPORARY_PREFIX, atomic_path, open_regular, remove
from pipeline.lock import Holder, heartbeat, is_running, lock_file, read_holder, refusal, this_process, uptime_s
from pipeline.paths import path_bytes, path_text
from pipeline.settings import UserError
from pipeline.temporary import full_disk_is_temporary, temporary_folder

_FILE = "file:"


def _without_file(place: str) -> str:
    """The place, as a path where it is spelled `file:///x/d` or `file://localhost/x/d`.

    Raises:
        ValueError: it is spelled with `file:` otherwise.
    """
    if place[: len(_FILE)].lower() != _FILE:
        return place
    result = re.fullmatch(r"//(localhost)?/*(/[^/].*)", place[len(_FILE) :], re.IGNORECASE | re.DOTALL)
    if result is None:
        raise ValueError(
            f"{place!r} is no address of a folder or file on this machine: allowed are file:///PATH, /PATH"
        )
    return os.fsdecode(unquote_to_bytes(os.fsencode(result[2])))


def _as_text(place: object) -> object:
    if isinstance(place, os.PathLike):
        return os.fspath(place)
    return _without_file(place) if isinstance(place, str) else place


Place = Annotated[str, BeforeValidator(_as_text)]
"""A path, or an address such as `s3://bucket/folder` that fsspec knows; `file:///folder` becomes a path."""


def _no_address(place: object) -> object:
    place = _as_text(place)
    if isinstance(place, str) and "://" in place:
        raise ValueError("must be a folder on a file system, not an address: copy it to one first")
    return place


Folder = Annotated[Path, BeforeValidator(_no_address)]
"""A path on a file system; an address is refused."""

_MOST_BYTES = 1 << 30
"""Larger local files are not read whole: a disk image under a picture's name must not take all memory."""


class Storage(ABC):
    """A folder; `name` below is a path relative to it (see pipeline/paths.py). Can be pickled and sent elsewhere.

    What fails raises OSError: FileNotFoundError, PermissionError, ...
    """

    def __init__(self, place: str, given: str = "") -> None:
        """Use the folder at `place`; messages name it as it was `given`."""
        self.place, self._given = place, given or place

    def __str__(self) -> str:
        return self._given

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the folder really is, the same however its path or address is spelled."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The file, open for reading and seekable."""

    @contextlib.contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """The Parquet file, open for reading.

        There is no read-ahead: Arrow's threads may let go of a Python file's buffers a moment after a read, and a
        program that ends in that moment aborts.
        """
        with self.open(name) as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
            yield file

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file, or None if there is none."""

    @abstractmethod
    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted; none if there is no such folder."""

    @abstractmethod
    def walk(self) -> Iterator[str]:
        """Names of all files below, at any depth, in any order; hidden folders are left out."""

    @abstractmethod
    def atomic_write(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A local path to write a file to; it becomes `name` when the block ends without an error."""

    @abstractmethod
    def local(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A local path that holds the file while the block runs."""

    @abstractmethod
    def exclusive_lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Keep a second job out while the block runs, by the lock file `name` (see pipeline/lock.py).

        Raises:
            UserError: another job is in, or has left its lock behind on another machine, or the folder cannot be
                written.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file or a whole folder; nothing happens if it is not there."""

    @abstractmethod
    def is_missing(self) -> bool:
        """Whether there is no such folder (in an object store: nothing below it)."""

    def read(self, name: str, span: tuple[int, int] | None = None) -> bytes:
        """The bytes of a file, or of its `span` (first byte, number of bytes).

        Raises:
            EOFError: the file ends within the span.
        """
        with self.open(name) as stream:
            if span is None:
                return stream.read()
            stream.seek(span[0])
            data = stream.read(span[1])
        if len(data) < span[1]:
            raise EOFError(f"{name} ends before byte {sum(span)}")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole."""
        with self.atomic_write(name) as path:
            path.write_bytes(data)

    def clean(self, folder: str = "") -> None:
        """Remove what killed writers left half-written in `folder`."""
        for name in self.files(folder):
            if Path(name).name.startswith(TEMPORARY_PREFIX):
                self.remove(name)


def _cannot_lock(storage: Storage, error: OSError) -> UserError:
    return UserError(f"cannot write to the output folder {storage}: {error.strerror or error}")


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error  # a folder that cannot be read must not be taken for an empty one


def _name(path: str) -> str:
    """A path that this machine's file system gave, whatever its locale."""
    return path_text(os.fsencode(path))


class LocalStorage(Storage):
    """A folder on a file system."""

    @cached_property
    def _root(self) -> Path:
        return Path(self.place)

    @property
    def location(self) -> str:
        return str(self._root.resolve())

    def _path(self, name: str) -> Path:
        """A path as this machine's locale spells it."""
        return self._root / os.fsdecode(path_bytes(name))

    def open(self, name: str) -> BinaryIO:
        return open_regular(self._path(name))

    @contextlib.contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        self.open(name).close()  # a device or a pipe under the name is refused
        with pq.ParquetFile(self._path(name)) as file:  # Arrow's own file: no buffer of it is Python's
            yield file

    def read(self, name: str, span: tuple[int, int] | None = None) -> bytes:
        if span is None and (self.size(name) or 0) > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"more than {_MOST_BYTES >> 30} GiB", name)
        return super().read(name, span)

    def size(self, name: str) -> int | None:
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def files(self, folder: str = "") -> list[str]:
        path = self._path(folder)
        if not path.is_dir():
            return []
        with os.scandir(path) as entries:
            return sorted(os.path.join(folder, _name(entry.name)) for entry in entries if entry.is_file())  # noqa: PTH118

    def is_missing(self) -> bool:
        return not self._root.is_dir()

    def walk(self) -> Iterator[str]:
        visited = {self._root.resolve()}  # links to folders are followed, each folder once
        for folder, subfolders, names in os.walk(self._root, followlinks=True, onerror=_raise):
            for name in list(subfolders):
                path = Path(folder, name)
                if name.startswith(".") or (path.is_symlink() and path.resolve() in visited):
                    subfolders.remove(name)
                elif path.is_symlink():
                    visited.add(path.resolve())
            prefix = _name(os.path.relpath(folder, self._root))
            yield from (name if prefix == "." else f"{prefix}/{name}" for name in map(_name, names))

    @contextlib.contextmanager
    def atomic_write(self, name: str) -> Iterator[Path]:
        with atomic_path(self._path(name)) as temporary:
            yield temporary

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self._path(name)

    @contextlib.contextmanager
    def exclusive_lock(self, name: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_file(self._path(name), str(self)))
            except OSError as error:
                raise _cannot_lock(self, error) from error
            yield

    def remove(self, name: str) -> None:
        remove(self._path(name))


class ObjectStorage(Storage):
    """A prefix in an object store, by fsspec. An upload becomes visible when it is complete, as such stores promise."""

    @cached_property
    def _located(self) -> tuple[Any, str]:
        fs, root = fsspec.core.url_to_fs(self.place, use_listings_cache=False)
        return fs, root.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"place": self.place, "_given": self._given}  # connections stay where they were opened

    @property
    def location(self) -> str:
        fs, root = self._located
        return str(fs.unstrip_protocol(root))

    def _path(self, name: str) -> str:
        return f"{self._located[1]}/{name}" if name else self._located[1]

    def _call(self, method: str, name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - fsspec is untyped
        with self._plain_errors():
            return getattr(self._located[0], method)(self._path(name), *arguments, **options)

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """No connection, no credentials: each store has exceptions of its own."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self.place}: {error}") from error

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._located[1]).lstrip("/")

    def open(self, name: str) -> BinaryIO:
        stream: BinaryIO = self._call("open", name, "rb")
        return stream

    def read(self, name: str, span: tuple[int, int] | None = None) -> bytes:
        first, last = (None, None) if span is None else (span[0], sum(span))
        data: bytes = self._call("cat_file", name, start=first, end=last)
        if span is not None and len(data) < span[1]:
            raise EOFError(f"{name} ends before byte {last}")
        return data

    def size(self, name: str) -> int | None:
        try:
            result = self._call("info", name)
        except FileNotFoundError:
            return None
        return int(result["size"]) if result["type"] == "file" else None

    def files(self, folder: str = "") -> list[str]:
        try:
            result = self._call("ls", folder, detail=True)
        except FileNotFoundError:
            return []
        return sorted(self._relative(entry["name"]) for entry in result if entry["type"] == "file")

    def is_missing(self) -> bool:
        return next(self.walk(), None) is None

    def walk(self) -> Iterator[str]:
        with self._plain_errors():
            try:
                for folder, subfolders, names in self._located[0].walk(self._located[1], on_error="raise"):
                    subfolders[:] = [name for name in subfolders if not name.startswith(".")]
                    prefix = self._relative(folder)
                    yield from (f"{prefix}/{name}" if prefix else name for name in names if name)
            except FileNotFoundError:
                return

    @contextlib.contextmanager
    def atomic_write(self, name: str) -> Iterator[Path]:
        with temporary_folder() as folder, full_disk_is_temporary():
            path = folder / Path(name).name
            yield path
            with self._plain_errors():
                self._located[0].put_file(str(path), self._path(name))

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with temporary_folder() as folder:
            path = folder / Path(name).name
            with full_disk_is_temporary():
                self._call("get_file", name, str(path))
            yield path

    @contextlib.contextmanager
    def exclusive_lock(self, name: str) -> Iterator[None]:
        current = this_process()
        try:
            self._claim(name, current)
        except OSError as error:
            raise _cannot_lock(self, error) from error
        try:
            with heartbeat(lambda: self.write(name, current.beating())):
                yield
        finally:
            with contextlib.suppress(OSError):
                holder = read_holder(self.read(name))
                if holder is not None and holder.process == current.process:
                    self.remove(name)

    def _claim(self, name: str, here: Holder) -> None:
        """Write the lock object unless a job holds it; of jobs that do so at once, one succeeds."""
        try:
            self._call("pipe_file", name, here.beating(), mode="create")
        except FileExistsError:
            holder = read_holder(self.read(name))
            if holder is not None:
                age_s = (here.heartbeat - holder.heartbeat).total_seconds()  # by the clocks of both machines
                running = is_running(holder, here, None, age_s, uptime_s())
                if message := refusal(str(self), f"{self}/{name}", holder, running, age_s):
                    raise UserError(message) from None
            self.write(name, here.beating())

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call("rm", name, recursive=True)


def open_storage(place: str) -> Storage:
    """The folder at a path or at an address like `s3://bucket/folder`; `file:///x/d` is the path /x/d.

    Raises:
        UserError: the address cannot be understood, or is of a kind for which no package is installed.
    """
    try:
        place = _without_file(place)
    except ValueError as error:
        raise UserError(str(error)) from error
    if "://" not in place:
        path = Path(place).expanduser().absolute()
        path = path.resolve() if ".." in path.parts else path  # what lies beside a folder is found by its path
        return LocalStorage(str(path), given=str(Path(place)))
    storage = ObjectStorage(place.rstrip("/"))
    try:
        storage._located  # noqa: B018 - opens the file system
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot use {place}: {error}") from error
    return storage
