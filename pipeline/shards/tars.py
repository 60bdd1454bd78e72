"""The files in a tar, and in the tars in it, by where their bytes lie: nothing is unpacked."""

import io
import os
import posixpath
import sqlite3
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from pipeline.settings import UserError
from pipeline.storage import Storage
from pipeline.temporary import temporary_database

_CACHE_KB = 16_000
_BLOCK = tarfile.BLOCKSIZE
_MOST_LINKS = 40
"""Symbolic links that are followed from one to the next; as on Linux."""


class Entry(NamedTuple):
    """A file that may be an input."""

    path: str
    span: tuple[int, int] | None = None
    """In a tar: first byte and number of bytes."""
    fault: str = ""
    """Why it cannot be read, if that is known already."""


class _Window(io.RawIOBase):
    """Seekable reading of `stream` from `start` to `end`, for a tar that lies in another tar or behind one."""

    def __init__(self, stream: BinaryIO, start: int, end: int) -> None:
        self._stream, self._start, self._size, self._place = stream, start, end - start, 0

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._place)
        self._stream.seek(self._start + self._place)
        data = self._stream.read(left if size < 0 else min(size, left))
        self._place += len(data)
        return data

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._place = place
        return place

    def tell(self) -> int:
        return self._place


class _Files:
    """The files that unpacking the tar would leave, by their names, in a database on disk.

    A later member replaces an earlier one of its name. A hard link is what its target was just then.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._added = 0
        database.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE file (name BLOB PRIMARY KEY, path BLOB, first INTEGER, bytes INTEGER, target BLOB, "
            "fault TEXT) WITHOUT ROWID"
        )

    @staticmethod
    def _name(path: str) -> bytes:
        return os.fsencode(posixpath.normpath("/" + path.lstrip("/")))

    def add(self, path: str, span: tuple[int, int] | None, target: str = "", fault: str = "") -> None:
        """A file, a symbolic link to a `target` counted from the root of the tar, or one that cannot be read."""
        row = (*(span or (None, None)), self._name(target) if target else None, fault)
        self._put(path, row)

    def add_hard_link(self, path: str, target: str) -> None:
        """Another name of a file that has been added."""
        found = "SELECT first, bytes, target, fault FROM file WHERE name = ?"
        row = self._database.execute(found, [self._name(target)]).fetchone()
        self._put(path, row or (None, None, None, f"a hard link to {target}, which is not before it in the tar"))

    def _put(self, path: str, row: tuple[object, ...]) -> None:
        insert = "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?)"
        self._database.execute(insert, [self._name(path), os.fsencode(path), *row])
        self._added += 1

    def replaced(self) -> int:
        """Members that a later one of the same name has replaced."""
        return self._added - int(self._database.execute("SELECT COUNT(*) FROM file").fetchone()[0])

    def _follow(self, target: bytes) -> tuple[tuple[int, int] | None, str]:
        """Span or fault of what a symbolic link leads to."""
        found = "SELECT first, bytes, target, fault FROM file WHERE name = ?"
        name: bytes | None = target
        for _ in range(_MOST_LINKS):
            row = self._database.execute(found, [name]).fetchone()
            if row is None:
                break
            first, size, name, fault = row
            if name is None:
                return None if first is None else (first, size), fault
        return None, f"a link to {os.fsdecode(target[1:])}, where the tar holds no file"

    def __iter__(self) -> Iterator[Entry]:
        rows = self._database.execute("SELECT path, first, bytes, target, fault FROM file")
        for path, first, size, target, fault in rows:
            span = None if first is None else (first, size)
            if target is not None:
                span, fault = self._follow(target)
            yield Entry(os.fsdecode(path), span, fault)


def _end_of_zeros(window: _Window, start: int) -> tuple[int, bytes]:
    """Where the next block that is not all zeros begins, and that block; b"" at the end of the file."""
    window.seek(start)
    while chunk := window.read(_BLOCK * 2048):
        if chunk.strip(b"\0"):
            zeros = (len(chunk) - len(chunk.lstrip(b"\0"))) // _BLOCK * _BLOCK
            return start + zeros, chunk[zeros : zeros + _BLOCK]
        start += len(chunk)
    return start, b""


class _Reader:
    """Reads the headers of a tar and of the tars in it into `files`."""

    def __init__(self, stream: BinaryIO, files: _Files, ignored: Counter[str], bar: "tqdm[Any]") -> None:
        self._stream, self._files, self._ignored, self._bar = stream, files, ignored, bar

    def read(self, start: int, end: int, folder: str, place: str) -> None:
        """The tar between two bytes of the stream, and those that were joined to it; its files lie in `folder`.

        Raises:
            UserError: it is damaged, cut off or compressed; `place` is how the message names it.
        """
        if start == end:
            raise UserError(f"{place} is empty: only whole, uncompressed tars can be read")
        first = start
        try:
            while start < end:
                start += self._read_one(start, end, folder, place)
        except tarfile.TarError as error:
            what = str(error) if start == first else f"behind the end mark at byte {start - first}: {error}"
            raise UserError(
                f"{place} is damaged or compressed ({what}): only whole, uncompressed tars can be read"
            ) from error

    def _read_one(self, start: int, end: int, folder: str, place: str) -> int:
        """Members up to an end mark; returns the number of bytes up to the next tar, or the end."""
        window = _Window(self._stream, start, end)
        with tarfile.open(fileobj=window, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # tarfile would keep every header in memory
                self._bar.update()
                self._member(member, start, folder, place)
            ended = tar.offset
        behind, block = _end_of_zeros(window, ended)
        if behind == ended:
            what = "invalid header" if len(block) == _BLOCK else "cut off, there is no end mark"
            raise tarfile.ReadError(f"{what} at byte {ended}")
        return behind

    def _member(self, member: tarfile.TarInfo, start: int, folder: str, place: str) -> None:
        name = member.name.lstrip("/") if folder else member.name
        path = str(PurePosixPath(folder, name))
        first = start + member.offset_data
        if member.issparse():
            self._files.add(path, None, fault="it is stored with holes (tar --sparse); unpack the tar to read it")
        elif member.isfile() and path.lower().endswith(".tar") and not is_hidden(path):
            self.read(first, first + member.size, path[: -len(".tar")], f"{path} in {place}")
        elif member.isfile():
            self._files.add(path, (first, member.size))
        elif member.islnk():
            self._files.add_hard_link(path, posixpath.join(folder, member.linkname.lstrip("/")))
        elif member.issym():
            self._files.add(path, None, target=posixpath.join(folder, posixpath.dirname(name), member.linkname))
        elif not member.isdir():
            self._ignored["devices and other special files"] += 1


def is_hidden(path: str) -> bool:
    """Whether a file or a folder above it is hidden; of an absolute path, the file or the folder that holds it."""
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") and part != ".." for part in (parts[-2:] if path.startswith("/") else parts))


def tar_entries(storage: Storage, name: str, ignored: Counter[str]) -> Iterator[Entry]:
    """Every file, in any order; links are followed to the file in the tar that they lead to.

    The files of an inner `X.tar` have paths `X/...`, as in `ILSVRC2012_img_train.tar`, where they are the classes.
    Of members of one name the last counts, as when the tar is unpacked. Tars that were joined are read one after the
    other. What is no file is counted in `ignored`.

    Raises:
        UserError: the tar or one in it is damaged, cut off or compressed.
    """
    with (
        temporary_database() as database,
        storage.open(name) as stream,
        tqdm(desc=f"reading {name}", unit=" members", delay=3) as bar,
    ):
        files = _Files(database)
        _Reader(stream, files, ignored, bar).read(0, stream.seek(0, io.SEEK_END), "", f"{storage}/{name}")
        if replaced := files.replaced():
            ignored["members that a later one of the same name replaces"] += replaced
        yield from files
