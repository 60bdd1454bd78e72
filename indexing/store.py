"""Features on disk: `features.parquet`, which is kept, and a raw copy from which the search reads blocks of rows."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.neighbours import parquet_metadata
from pipeline.reading import reading, reason
from pipeline.settings import UserError
from pipeline.storage import Storage

FEATURES = "features.parquet"
_AGAIN = "Move it away and run the command again"
_ROW_GROUP = 16_384
_LOWEST_NORM = 1e-12


def unit_rows(
    values: NDArray[np.floating], rows: Sequence[int] | NDArray[np.int64], source: str
) -> NDArray[np.float16]:
    """(n, D) vectors scaled to unit length and rounded to float16.

    Raises:
        UserError: a vector is zero or not finite; names its row, of the (n,) `rows`.
    """
    wide = values.astype(np.float64)
    norm = np.sqrt(np.square(wide).sum(axis=1))
    broken = np.flatnonzero(~(np.isfinite(norm) & (norm > _LOWEST_NORM)))
    if len(broken):
        what = "a vector of zeros" if norm[broken[0]] <= _LOWEST_NORM else "values that are not finite numbers"
        raise UserError(f"{source} hold {what}, first in row {rows[broken[0]]}: check what computed them")
    units: NDArray[np.float16] = (wide / norm[:, None]).astype(np.float16)
    return units


def write_features(
    out: Storage,
    keys: pa.ChunkedArray,
    blocks: Iterable[NDArray[np.float16]],
    width: int,
    metadata: Mapping[str, str],
) -> None:
    """Write `features.parquet` from (n, width) blocks that hold all rows of the index in order."""
    schema = pa.schema(
        [("key", pa.string()), ("feature", pa.list_(pa.float16(), width))], {**metadata, "width": json.dumps(width)}
    )
    row = 0
    with (
        out.atomic_write(FEATURES) as path,
        pq.ParquetWriter(path, schema, compression="none", use_dictionary=["key"], write_statistics=False) as writer,
    ):
        for block in _regrouped(blocks, _ROW_GROUP):
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), width)
            part = keys.slice(row, len(block)).combine_chunks()
            writer.write_table(pa.table([part, column], schema))
            row += len(block)
    assert row == len(keys)


def _regrouped(blocks: Iterable[NDArray[np.float16]], rows: int) -> Iterator[NDArray[np.float16]]:
    """The same rows in blocks of `rows`, so that the file does not depend on the sizes of `blocks`."""
    waiting: list[NDArray[np.float16]] = []
    for block in blocks:
        waiting.append(block)
        while sum(map(len, waiting)) >= rows:
            joined = np.concatenate(waiting)
            yield joined[:rows]
            waiting = [joined[rows:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def read_metadata(out: Storage) -> dict[str, str] | None:
    """The metadata of `features.parquet`; None if there is no such file.

    Raises:
        UserError: it is damaged, or was not written by `write_features`.
    """
    if out.size(FEATURES) is None:
        return None
    with reading(f"{out}/{FEATURES}", "a Parquet file", _AGAIN), out.parquet(FEATURES) as file:
        metadata = {**parquet_metadata(file.schema_arrow), "rows": str(file.metadata.num_rows)}
    if "dataset_hash" not in metadata:
        raise UserError(
            f"{out}/{FEATURES} was not written by this program and would be replaced: move it away, or "
            "choose another --out"
        )
    return metadata


def features_identity(dataset_hash: str, weights_hash: str, frames: int = 1) -> dict[str, str]:
    """What features depend on, as their metadata; `frames` of a clip are averaged."""
    identity = {"dataset_hash": dataset_hash, "weights_hash": weights_hash}
    return identity if frames == 1 else {**identity, "frames": str(frames)}


def has_features(out: Storage, identity: Mapping[str, str], rows: int) -> bool:
    """Whether the features in `out` are those of `rows` samples with this identity; raises as `read_metadata`."""
    recorded = read_metadata(out)
    expected = {"frames": None, "supplied_sha256": None, **identity, "rows": str(rows)}
    return recorded is not None and {key: recorded.get(key) for key in expected} == expected


def unpack(source: Storage, out: Storage, name: str) -> None:
    """Copy the features in `source` to the raw file `name` in `out`, a .npy array (rows, width) of float16.

    Raises:
        UserError: they are damaged or not finite unit vectors.
    """
    try:
        with source.parquet(FEATURES) as file, out.atomic_write(name) as path, path.open("wb") as target:
            width = file.schema_arrow.field("feature").type.list_size
            header = {"descr": "<f2", "fortran_order": False, "shape": (file.metadata.num_rows, width)}
            npy.write_array_header_1_0(target, header)
            row = 0
            # One row group after the other: `iter_batches` keeps much of the file in memory.
            for group in tqdm(range(file.num_row_groups), desc="reading features", delay=3):
                column = file.read_row_group(group, columns=["feature"])["feature"].combine_chunks()
                values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
                norm = np.sqrt(np.square(values.astype(np.float32)).sum(axis=1))
                broken = np.flatnonzero(~(np.abs(norm - 1) < 0.01))
                if len(broken):
                    raise UserError(
                        f"row {row + broken[0]} of {source}/{FEATURES} is not a unit vector: remove the file and run "
                        "the command again"
                    )
                target.write(values.tobytes())
                row += len(values)
    except (UserError, OSError):
        raise
    except Exception as error:  # Arrow's own kinds and Python's
        raise UserError(f"{source}/{FEATURES} is not a Parquet file ({reason(error)}). {_AGAIN}") from error


class FeatureFile:
    """Random access to blocks of rows of the raw copy."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name

    @cached_property
    def _header(self) -> tuple[tuple[int, int], int]:
        with self._storage.open(self._name) as stream:
            npy.read_magic(stream)
            (rows, width), _, _ = npy.read_array_header_1_0(stream)
            return (rows, width), stream.tell()

    @property
    def rows(self) -> int:
        """Number of vectors."""
        return self._header[0][0]

    @property
    def width(self) -> int:
        """Values of a vector."""
        return self._header[0][1]

    def read(self, start: int, stop: int, buffer: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Rows `start` to `stop` (exclusive), read into the first rows of `buffer` if given."""
        result = np.empty((stop - start, self.width), np.float32) if buffer is None else buffer[: stop - start]
        for first in range(start, stop, _ROW_GROUP):  # never holds all rows in both precisions
            last = min(first + _ROW_GROUP, stop)
            offset, size = self._header[1] + first * self.width * 2, (last - first) * self.width * 2
            values = np.frombuffer(self._storage.read(self._name, (offset, size)), np.float16)
            result[first - start : last - start] = values.reshape(-1, self.width)
        return result
