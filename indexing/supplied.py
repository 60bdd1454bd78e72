"""Features supplied by the user: a `.npy` array, or a Parquet file with a column `feature`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray

from indexing.store import unit_rows, write_features
from pipeline.dataset import ShardDataset
from pipeline.neighbours import parquet_metadata
from pipeline.reading import reading
from pipeline.settings import UserError
from pipeline.storage import Storage

_ROWS = 16_384
_PARQUET = "a Parquet file"


def import_features(path: Path, dataset: ShardDataset, out: Storage, metadata: dict[str, str]) -> None:
    """Write the vectors of `path`, scaled to unit length, as the features of `dataset`.

    Raises:
        UserError: they are not one finite vector per sample, in the order of the dataset.
    """
    open_kind = _open_npy if path.suffix == ".npy" else _open_parquet
    if path.suffix not in (".npy", ".parquet"):
        raise UserError(f"--features {path}: give a .npy array or a .parquet file with a column `feature`")
    shape, blocks = open_kind(path, dataset)
    if shape[0] != len(dataset):
        raise UserError(f"{path} holds {shape[0]} vectors, but {dataset.folder} has {len(dataset)} samples")
    if not shape[1]:
        raise UserError(f"{path} holds vectors of width 0")
    units = (unit_rows(block, range(row, row + len(block)), f"the vectors of {path}") for row, block in blocks)
    write_features(out, dataset.keys, units, shape[1], metadata)


def supplied_metadata(path: Path) -> dict[str, str]:
    """The metadata of a Parquet file; empty for other files."""
    if path.suffix != ".parquet" or not path.is_file():
        return {}
    with reading(path, _PARQUET):
        return parquet_metadata(pq.read_schema(path))


Blocks = Iterator[tuple[int, NDArray[np.floating]]]
"""First row and (n, D) vectors, in order."""


def _open_npy(path: Path, dataset: ShardDataset) -> tuple[tuple[int, int], Blocks]:
    with reading(path, "a .npy array"):
        array = npy.open_memmap(path, mode="r")
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UserError(f"{path} holds {array.dtype} of shape {array.shape}; a float array (samples, width) is needed")
    return array.shape, ((row, np.asarray(array[row : row + _ROWS])) for row in range(0, len(array), _ROWS))


def _open_parquet(path: Path, dataset: ShardDataset) -> tuple[tuple[int, int], Blocks]:
    with reading(path, _PARQUET):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    if "feature" not in schema.names:
        raise UserError(f"{path} has no column `feature`, only {', '.join(schema.names)}")
    kind = schema.field("feature").type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not pa.types.is_floating(kind.value_type):
        raise UserError(f"column `feature` of {path} is {kind}; a list of floats in each row is needed")
    recorded_hash = supplied_metadata(path).get("dataset_hash")
    if recorded_hash not in (None, dataset.manifest.dataset_hash):
        raise UserError(f"{path} holds the features of another dataset than {dataset.folder} (dataset_hash differs)")
    with reading(path, _PARQUET):
        groups = file.num_row_groups
        first = file.read_row_group(0, columns=["feature"])["feature"] if groups else pa.chunked_array([], kind)
    width = len(first[0]) if len(first) and first[0].is_valid else 0
    return (file.metadata.num_rows, width), _parquet_blocks(file, path, dataset, width)


def _batches(file: pq.ParquetFile, path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with reading(path, _PARQUET):
        yield from file.iter_batches(_ROWS, columns=columns)


def _parquet_blocks(file: pq.ParquetFile, path: Path, dataset: ShardDataset, width: int) -> Blocks:
    row = 0
    columns = [name for name in ("feature", "key") if name in file.schema_arrow.names]
    for batch in _batches(file, path, columns):
        column = batch.column("feature")
        lengths = (
            np.array([width] * len(column))
            if pa.types.is_fixed_size_list(column.type)
            else (column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False))
        )
        wrong = np.flatnonzero((lengths != width) | column.is_null().to_numpy(zero_copy_only=False))
        if len(wrong):
            raise UserError(f"row {row + wrong[0]} of {path} is not a vector of {width} values like the first row")
        if "key" in columns:
            current = dataset.keys.slice(row, len(column)).to_pylist()
            recorded = batch.column("key").to_pylist()
            mismatch = next((i for i, key in enumerate(current) if key != recorded[i]), None)
            if mismatch is not None:
                raise UserError(
                    f"row {row + mismatch} of {path} is sample {recorded[mismatch]!r}, but {dataset.folder} has "
                    f"{current[mismatch]!r} there: these are features of another dataset or in another order"
                )
        values = column.flatten().to_numpy(zero_copy_only=False)
        yield row, values.reshape(len(column), width)
        row += len(column)
