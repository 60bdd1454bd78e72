"""The files that unpacking a tar would create, with the spans of their bytes, in a database on disk."""

import posixpath
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.paths import path_bytes, path_text

_CACHE_KB = 16_000
_MOST_LINKS = 40
"""Limit of symbolic links that are followed in a row, as on Linux."""
_COLUMNS = "first, bytes, target, fault"


class Entry(NamedTuple):
    """A file that may be an input."""

    path: str
    span: tuple[int, int] | None = None
    """In a tar: first byte and number of bytes."""
    fault: str = ""
    """Why it cannot be read, if known."""
    class_name: str | None = None
    """The class that a WebDataset tar gives it; None in other tars, and outside of tars."""


def _normal(path: str) -> bytes:
    return path_bytes(posixpath.normpath("/" + path.lstrip("/")))


def _text(name: bytes) -> str:
    return path_text(posixpath.normpath(name)[1:])


class UnpackedFiles:
    """Files and links by name.

    A later member replaces an earlier one with its name. A hard link refers to its target at that moment, a symbolic
    link to its target when all members are known, possibly through links to folders.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._added = 0
        database.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE file (name BLOB PRIMARY KEY, path BLOB, inner INTEGER, first INTEGER, bytes INTEGER, "
            "target BLOB, fault TEXT) WITHOUT ROWID"
        )
        database.execute("CREATE INDEX inner_tar ON file (name) WHERE inner")

    def add(self, path: str, span: tuple[int, int] | None, *, inner: bool = False, fault: str = "") -> None:
        """Add a file, readable or not; `inner`: it is a tar that will be read later."""
        self._put(path, inner, (*(span or (None, None)), None, fault))

    def add_link(self, path: str, target: str, *, inner: bool = False) -> None:
        """Add a symbolic link to a `target` relative to the root of the tar."""
        self._put(path, inner, (None, None, path_bytes("/" + target.lstrip("/")), ""))

    def add_hard_link(self, path: str, target: str, *, inner: bool = False) -> None:
        """Add another name of a known file."""
        name = _normal(target)
        row = self._row(name) or self._row(self._resolved(name) or b"")
        fault = f"a hard link to {target}, which does not precede it in the tar"
        self._put(path, inner, row or (None, None, None, fault))

    def add_folder(self, path: str) -> None:
        """Add a folder; it replaces a file or link with its name."""
        self._database.execute("DELETE FROM file WHERE name = ?", [_normal(path)])

    def _put(self, path: str, inner: bool, row: tuple[object, ...]) -> None:
        insert = "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._database.execute(insert, [_normal(path), path_bytes(path), inner, *row])
        self._added += 1

    def replaced(self) -> int:
        """Number of members that a later one with the same name replaced."""
        return self._added - int(self._database.execute("SELECT COUNT(*) FROM file").fetchone()[0])

    def take_inner(self) -> list[Entry]:
        """Remove and return the tars that were added since the last call, in the order of their bytes."""
        rows = self._database.execute(f"SELECT path, name, {_COLUMNS} FROM file WHERE inner").fetchall()
        folders = [name for _, name, *_, target, _ in rows if target is not None and self._is_folder(target)]
        tars = [Entry(path_text(path), *self._content(*row)) for path, name, *row in rows if name not in folders]
        self._database.executemany("UPDATE file SET inner = 0 WHERE name = ?", [[name] for name in folders])
        self._added -= self._database.execute("DELETE FROM file WHERE inner").rowcount
        return sorted(tars, key=lambda entry: (entry.span or (0, 0), entry.path))

    def _row(self, name: bytes) -> tuple[int | None, int | None, bytes | None, str] | None:
        row: tuple[int | None, int | None, bytes | None, str] | None
        row = self._database.execute(f"SELECT {_COLUMNS} FROM file WHERE name = ?", [name]).fetchone()
        return row

    def _resolved(self, path: bytes) -> bytes | None:
        """The path with all links resolved, as in a file system; None if the links form a cycle."""
        resolved, ahead, links = b"", path.split(b"/")[::-1], 0
        while ahead:
            part = ahead.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                resolved = resolved.rpartition(b"/")[0]
                continue
            name = resolved + b"/" + part
            row = self._row(name)
            if row is None or row[2] is None:
                resolved = name
            elif (links := links + 1) > _MOST_LINKS:
                return None
            else:
                resolved, ahead = b"", ahead + row[2].split(b"/")[::-1]
        return resolved

    def _is_folder(self, target: bytes) -> bool:
        folder = self._resolved(target)
        return folder is not None and next(self._below(folder), None) is not None

    def _content(
        self, first: int | None, size: int | None, target: bytes | None, fault: str
    ) -> tuple[tuple[int, int] | None, str]:
        """Span and fault of a row, or of its target if it is a link."""
        if target is not None:
            name = self._resolved(target)
            row = name and self._row(name)
            if not row:
                return None, f"a link to {_text(target)}, where the tar holds no file"
            first, size, _, fault = row
        return None if first is None or size is None else (first, size), fault

    def _below(self, folder: bytes) -> Iterator[tuple[bytes, bytes, list[object]]]:
        rows = self._database.execute(
            f"SELECT path, name, {_COLUMNS} FROM file WHERE name >= ? AND name < ?", [folder + b"/", folder + b"0"]
        )
        return ((path, name, row) for path, name, *row in rows)

    def entries(self, ignored: Counter[str]) -> Iterator[Entry]:
        """All files. Links to folders are followed, each folder once; further links are counted in `ignored`."""
        visited: set[bytes] = set()
        waiting: list[tuple[bytes, bytes | None]] = [(b"", None)]
        while waiting:
            folder, shown = waiting.pop()
            for path, name, row in self._below(folder):
                path = path if shown is None else shown + name[len(folder) :]
                target = row[2]
                if isinstance(target, bytes) and self._is_folder(target):
                    linked = self._resolved(target) or b""
                    if linked in visited or (name + b"/").startswith(linked + b"/"):
                        ignored["links to folders that were already read"] += 1
                    else:
                        visited.add(linked)
                        waiting.append((linked, path))
                else:
                    yield Entry(path_text(path), *self._content(*row))  # type: ignore[arg-type]
