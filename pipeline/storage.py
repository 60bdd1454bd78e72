"""Folders on a file system or in an object store, with atomic writes: a file is complete under its name or missing."""

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

from pipeline.extras import missing_extra
from pipeline.files import TEMPORARY_PREFIX, atomic_path, open_regular, remove
from pipeline.lock import Holder, heartbeat, is_running, lock_file, read_holder, refusal, this_process, uptime_s
from pipeline.paths import path_bytes, path_text
from pipeline.settings import UserError
from pipeline.temporary import full_disk_is_temporary, temporary_folder

_FILE = "file:"


def _without_file(uri: str) -> str:
    """Turn `file:///x/d` and `file://localhost/x/d` into the path `/x/d`; other URIs and paths stay as they are.

    Raises:
        ValueError: any other form of `file:`.
    """
    if uri[: len(_FILE)].lower() != _FILE:
        return uri
    match = re.fullmatch(r"//(localhost)?/*(/[^/].*)", uri[len(_FILE) :], re.IGNORECASE | re.DOTALL)
    if match is None:
        raise ValueError(f"{uri!r} is not the URI of a folder or file on this machine: allowed are file:///PATH, /PATH")
    return os.fsdecode(unquote_to_bytes(os.fsencode(match[2])))


def _as_text(uri: object) -> object:
    if isinstance(uri, os.PathLike):
        return os.fspath(uri)
    return _without_file(uri) if isinstance(uri, str) else uri


Uri = Annotated[str, BeforeValidator(_as_text)]
"""A path, or a URI that fsspec supports, such as `s3://bucket/folder`; `file:///folder` becomes a path."""


def _local_path(uri: object) -> object:
    uri = _as_text(uri)
    if isinstance(uri, str) and "://" in uri:
        raise ValueError("must be a folder on a file system, not a URI: copy it to one first")
    return uri


Folder = Annotated[Path, BeforeValidator(_local_path)]
"""A path on a file system; URIs are refused."""

_MOST_BYTES = 1 << 30
"""Larger local files are refused by `read`: a disk image with a picture's name must not fill the memory."""


class Storage(ABC):
    """A folder whose files are read and written by `name`, a relative path (see pipeline/paths.py). Can be pickled.

    Methods raise OSError if the file system or object store fails: FileNotFoundError, PermissionError, ...
    """

    def __init__(self, uri: str, given: str = "") -> None:
        """Use the folder at `uri`; messages show it as `given`."""
        self.uri, self._given = uri, given or uri

    def __str__(self) -> str:
        return self._given

    @property
    @abstractmethod
    def location(self) -> str:
        """Canonical path or URI of the folder: the same for every spelling of it."""

    def split(self) -> "tuple[Storage, str]":
        """The parent folder, and the name in it."""
        parent, _, name = self.uri.rpartition("/")
        return type(self)(parent or "/"), name

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; the stream is seekable."""

    @contextlib.contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file for reading.

        Without read-ahead: Arrow's threads may release a Python file's buffers shortly after a read, and a program that
        exits in that moment aborts.
        """
        with self.open(name) as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
            yield file

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it does not exist."""

    @abstractmethod
    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted; empty if the folder does not exist."""

    @abstractmethod
    def walk(self) -> Iterator[str]:
        """Names of all files at any depth, in any order; hidden folders are skipped."""

    @abstractmethod
    def atomic_write(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Yield a temporary local path; the file written to it becomes `name` if the block ends without an error."""

    @abstractmethod
    def local(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Yield a local path of the file, valid inside the block."""

    @abstractmethod
    def exclusive_lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock file `name` while the block runs, so that no second job runs (see pipeline/lock.py).

        Raises:
            UserError: another job holds it, or left it behind on another machine, or the folder cannot be written.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file or a whole folder, if it exists."""

    @abstractmethod
    def is_missing(self) -> bool:
        """Whether the folder does not exist (in an object store: has no files)."""

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
        """Write a file atomically."""
        with self.atomic_write(name) as path:
            path.write_bytes(data)

    def clean(self, folder: str = "") -> None:
        """Remove the temporary files of killed writers from `folder`."""
        for name in self.files(folder):
            if Path(name).name.startswith(TEMPORARY_PREFIX):
                self.remove(name)


def _cannot_lock(storage: Storage, error: OSError) -> UserError:
    return UserError(f"cannot write to the output folder {storage}: {error.strerror or error}")


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error  # an unreadable folder must not be taken for an empty one


def _name(path: str) -> str:
    """A path from this machine's file system as text, whatever the locale."""
    return path_text(os.fsencode(path))


class LocalStorage(Storage):
    """A folder on a file system."""

    @cached_property
    def _root(self) -> Path:
        return Path(self.uri)

    @property
    def location(self) -> str:
        return str(self._root.resolve())

    def _path(self, name: str) -> Path:
        """The path of a file in this machine's encoding."""
        return self._root / os.fsdecode(path_bytes(name))

    def open(self, name: str) -> BinaryIO:
        return open_regular(self._path(name))

    @contextlib.contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        self.open(name).close()  # refuses devices and pipes
        with pq.ParquetFile(self._path(name)) as file:  # opened by Arrow: no Python buffers
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
        visited = {self._root.resolve()}  # follow links to folders, each folder once
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
    """A prefix in an object store, by fsspec. Object stores promise that an upload is visible only once complete."""

    _connection: tuple[int, Any, str] | None = None
    """Process that connected, file system, and root in it: neither forked nor spawned processes inherit connections."""

    @property
    def _located(self) -> tuple[Any, str]:
        if self._connection is None or self._connection[0] != os.getpid():
            fs, root = fsspec.core.url_to_fs(self.uri, use_listings_cache=False)
            self._connection = os.getpid(), fs, root.rstrip("/")
        return self._connection[1:]

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri, "_given": self._given}

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
        """Turn the exceptions of each store (no connection, no credentials, ...) into OSError."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self.uri}: {error}") from error

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

    def _claim(self, name: str, current: Holder) -> None:
        """Write the lock object unless a job holds it; of several jobs that try at once, one succeeds."""
        try:
            self._call("pipe_file", name, current.beating(), mode="create")
        except FileExistsError:
            holder = read_holder(self.read(name))
            if holder is not None:
                age_s = (current.heartbeat - holder.heartbeat).total_seconds()  # by the clocks of both machines
                running = is_running(holder, current, None, age_s, uptime_s())
                if message := refusal(str(self), f"{self}/{name}", holder, running, age_s):
                    raise UserError(message) from None
            self.write(name, current.beating())

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call("rm", name, recursive=True)


def is_remote(uri: str) -> bool:
    """Whether a path or URI is in an object store."""
    return "://" in uri


def open_storage(uri: str) -> Storage:
    """Open the folder at a path or at a URI such as `s3://bucket/folder`; `file:///x/d` is the path /x/d.

    Raises:
        UserError: the URI is malformed, or no package for its protocol is installed.
    """
    try:
        uri = _without_file(uri)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not is_remote(uri):
        path = Path(uri).expanduser().absolute()
        path = path.resolve() if ".." in path.parts else path  # or the parent's path would be wrong
        return LocalStorage(str(path), given=str(Path(uri)))
    storage = ObjectStorage(uri.rstrip("/"))
    try:
        storage._located  # noqa: B018 - opens the file system
    except (ImportError, ValueError) as error:
        reason = str(error)
        if isinstance(error.__cause__, ImportError):  # fsspec's own message names the package, not the extra
            reason = missing_extra(error.__cause__) or reason
        raise UserError(f"cannot use {uri}: {reason}") from error
    return storage
