"""The samples and rejects of a finished shard, so that a job that changes it decodes only what it must."""

import functools
import tarfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.shards.parts import read_index_part, read_rejects_part
from pipeline.spec import Reason
from pipeline.storage import Storage


class Entry(NamedTuple):
    """A sample to be written: its index row, without shard and spans, and its tar members."""

    row: dict[str, Any]
    members: Callable[[], list[tuple[str, bytes]]]


class PreviousShard:
    """Random access to the samples and rejects of a finished shard by input."""

    def __init__(self, rows: list[dict[str, Any]], rejects: list[dict[str, Any]], stream: BinaryIO | None) -> None:
        self._stream = stream
        self._rejects: dict[str, list[dict[str, Any]]] = {}
        for reject in rejects:
            self._rejects.setdefault(reject["source"], []).append(reject)
        self._rows: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            self._rows.setdefault(row["source"], []).append(row)
        self._members: dict[str, list[tuple[str, int, int]]] = {}
        if stream is not None:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    self._members.setdefault(key, []).append((extension, member.offset_data, member.size))

    def entries(self, source: str) -> list[Entry]:
        """The samples of an input; empty if all of it was rejected."""
        return [Entry(row, functools.partial(self._read, row["key"])) for row in self._rows.get(source, [])]

    def rejects(self, source: str) -> list[dict[str, Any]]:
        """The rejects of an input."""
        return self._rejects.get(source, [])

    def is_complete(self, source: str) -> bool:
        """Whether an input has samples and no part of it was rejected but for another with the same key."""
        reasons = {reject["reason"] for reject in self.rejects(source)}
        return source in self._rows and reasons <= {Reason.DUPLICATE_KEY.value}

    def _read(self, key: str) -> list[tuple[str, bytes]]:
        assert self._stream is not None
        contents = []
        for extension, offset, size in self._members[key]:
            self._stream.seek(offset)
            contents.append((extension, self._stream.read(size)))
        return contents


@contextmanager
def open_previous(out: Storage, name: str, folder: str, sources: Collection[str]) -> Iterator[PreviousShard]:
    """Open the samples and rejects of the inputs `sources` of a finished shard, whose part is in `folder`.

    The shard stays readable while a new one replaces it.
    """
    rows = [row for row in read_index_part(out, name, folder).to_pylist() if row["source"] in sources]
    rejects = read_rejects_part(out, name, folder).to_pylist()
    if not rows:
        yield PreviousShard([], rejects, None)
        return
    with out.local(f"{name}.tar") as tar, Path(tar).open("rb") as stream:
        yield PreviousShard(rows, rejects, stream)
