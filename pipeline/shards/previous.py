"""The samples of a finished shard, so that a retry decodes only its rejects."""

import functools
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.shards.parts import Part, read_index_part, read_rejects_part
from pipeline.spec import Reason
from pipeline.storage import Storage


class Entry(NamedTuple):
    """A sample to be written: its index row, without shard and spans, and its tar members."""

    row: dict[str, Any]
    members: Callable[[], list[tuple[str, bytes]]]


class PreviousShard:
    """Random access to the samples of a finished shard by input."""

    def __init__(self, rows: list[dict[str, Any]], rejected: set[str], stream: BinaryIO | None) -> None:
        self._rejected, self._stream = rejected, stream
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

    def is_complete(self, source: str) -> bool:
        """Whether an input has samples and no part of it was rejected."""
        return source in self._rows and source not in self._rejected

    def _read(self, key: str) -> list[tuple[str, bytes]]:
        assert self._stream is not None
        contents = []
        for extension, offset, size in self._members[key]:
            self._stream.seek(offset)
            contents.append((extension, self._stream.read(size)))
        return contents


@contextmanager
def open_previous(out: Storage, part: Part) -> Iterator[PreviousShard]:
    """Open the finished shard of `part`; it stays readable while a new one replaces it."""
    rows = read_index_part(out, part.name).to_pylist()
    rejects = read_rejects_part(out, part.name).to_pylist()
    rejected = {reject["source"] for reject in rejects if reject["reason"] != Reason.DUPLICATE_KEY.value}
    if not rows:
        yield PreviousShard([], rejected, None)
        return
    with out.local(f"{part.name}.tar") as tar, Path(tar).open("rb") as stream:
        yield PreviousShard(rows, rejected, stream)
