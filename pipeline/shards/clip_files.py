"""The clips of a folder by their file names, in a database on disk, for lists that name them without their paths."""

import sqlite3
from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.paths import path_bytes, path_text
from pipeline.shards.media import media_of

_CACHE_KB = 16_000
_ACTIVITYNET = "v_"
"""Prefix of the files of ActivityNet, which its annotations lack."""


def _stem(path: str) -> str:
    name = PurePosixPath(path).name
    return PurePosixPath(name).stem if media_of(name) else name


class ClipFiles:
    """Paths of clips by their file names without extension; remembers which were named."""

    def __init__(self, database: sqlite3.Connection, paths: Iterable[str]) -> None:
        self._database = database
        database.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE clip (stem BLOB, path BLOB, named INTEGER)")
        rows = ((path_bytes(_stem(path)), path_bytes(path)) for path in paths)
        database.executemany("INSERT INTO clip VALUES (?, ?, 0)", rows)
        database.execute("CREATE INDEX clip_stem ON clip (stem, path)")

    def of_names(self, stems: Iterable[str]) -> list[str]:
        """Paths with the first of these names that a file has."""
        return next(filter(None, map(self._take, stems)), [])

    def of_path(self, path: str) -> list[str]:
        """Paths that end as `path` does, which may lack folders and the extension, or have another one."""
        folder = str(PurePosixPath(path).parent).strip("/")
        return self._take(_stem(path), folder) or self._take(_ACTIVITYNET + _stem(path), folder)

    def _take(self, stem: str, folder: str = ".") -> list[str]:
        """Paths of the files with a name, below a folder or in any."""
        rows = self._database.execute("SELECT rowid, path FROM clip WHERE stem = ? ORDER BY path", [path_bytes(stem)])
        paths = {rowid: path_text(path) for rowid, path in rows.fetchall()}
        if folder not in ("", "."):
            paths = {row: path for row, path in paths.items() if f"/{path}".rpartition("/")[0].endswith(f"/{folder}")}
        self._database.executemany("UPDATE clip SET named = 1 WHERE rowid = ?", [[rowid] for rowid in paths])
        return list(paths.values())

    def unnamed(self) -> int:
        """Number of clips that were not named."""
        return int(self._database.execute("SELECT COUNT(*) FROM clip WHERE NOT named").fetchone()[0])
