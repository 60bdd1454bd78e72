"""Arrow tables that other processes of a machine map instead of copying."""

import os
import uuid
import weakref
from typing import NamedTuple

import numpy as np
import pyarrow as pa

_TOKEN = b"token"


def only_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The array of a column that has one chunk at most, without a copy."""
    return column.chunk(0) if column.num_chunks else column.combine_chunks()


def as_numpy(array: pa.Array) -> np.ndarray:
    """The numbers of an array, without a copy.

    Unlike `to_numpy`, this does not import pandas, which takes 30 MB in each process.
    """
    result: np.ndarray = np.from_dlpack(array)
    return result


class Reference(NamedTuple):
    """Where a process of the same machine finds a table, as long as the process that shares it lives."""

    path: str
    token: str
    """Random name of the table, in case the path means another file by now."""


class SharedTable:
    """A table in an anonymous file in memory, from which it is mapped: no copy, and nothing to clean up.

    The memory is freed when the last process that mapped it ends, whoever is killed. Forked processes see the same
    pages; others attach to them by the `reference`.
    """

    def __init__(self, table: pa.Table) -> None:
        """Copy a table to the file."""
        self._token = uuid.uuid4().hex
        descriptor = os.memfd_create("table", os.MFD_CLOEXEC)
        with (
            os.fdopen(os.dup(descriptor), "wb") as stream,
            pa.ipc.new_file(
                stream, table.schema.with_metadata({**(table.schema.metadata or {}), _TOKEN: self._token})
            ) as writer,
        ):
            writer.write_table(table.combine_chunks())
        self._map(descriptor)

    def _map(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        with pa.memory_map(f"/proc/self/fd/{descriptor}") as file:
            self.table: pa.Table = pa.ipc.open_file(file).read_all()

    @property
    def reference(self) -> Reference:
        """What another process needs to attach to the table."""
        return Reference(f"/proc/{os.getpid()}/fd/{self._descriptor}", self._token)

    @classmethod
    def attach(cls, reference: Reference) -> "SharedTable | None":
        """Map the table of another process; None if that process has ended or is on another machine."""
        shared = cls.__new__(cls)
        try:
            shared._map(os.open(reference.path, os.O_RDONLY | os.O_CLOEXEC))
        except (OSError, pa.ArrowException):
            return None
        shared._token = reference.token
        return shared if (shared.table.schema.metadata or {}).get(_TOKEN) == reference.token.encode() else None
