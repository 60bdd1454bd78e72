"""The neighbour table on disk."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset import Manifest
from pipeline.reading import reading
from pipeline.settings import UserError
from pipeline.shared import as_numpy
from pipeline.storage import Storage

NEIGHBOURS = "neighbours.parquet"


def parquet_metadata(schema: pa.Schema) -> dict[str, str]:
    """The metadata of a table without Arrow's own."""
    return {k.decode(): v.decode() for k, v in (schema.metadata or {}).items() if k != b"ARROW:schema"}


def write_neighbours(
    out: Storage,
    keys: pa.ChunkedArray,
    neighbours: NDArray[np.int32],
    similarity: NDArray[np.float32],
    metadata: Mapping[str, str],
) -> None:
    """Write `neighbours.parquet`: for each row of the dataset its k nearest rows (N, k) and similarities (N, k).

    `metadata` records the inputs and settings: dataset_hash, weights_hash, metric, ...
    """
    k = neighbours.shape[1]
    table = pa.table(
        {
            "key": keys,
            "neighbours": pa.FixedSizeListArray.from_arrays(neighbours.ravel(), k),
            "similarity": pa.FixedSizeListArray.from_arrays(similarity.ravel(), k),
        }
    )
    with out.atomic_write(NEIGHBOURS) as path:
        pq.write_table(table.replace_schema_metadata({**metadata, "k": json.dumps(k)}), path)


def table_metadata(out: Storage) -> dict[str, str] | None:
    """Metadata of the table in `out`; None if there is no table, or a damaged one.

    Raises:
        OSError: it cannot be read.
    """
    if out.size(NEIGHBOURS) is None:
        return None
    try:
        with out.open(NEIGHBOURS) as stream:
            return parquet_metadata(pq.read_schema(stream))
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def read_neighbours(folder: Path, manifest: Manifest) -> NDArray[np.int32]:
    """Read the (N, k) neighbour rows in `folder`, which must belong to the dataset of `manifest`.

    Raises:
        UserError: there is no table, or it was made from other shards.
    """
    path = folder / NEIGHBOURS
    if not path.is_file():
        raise UserError(f"there is no neighbour table {path}: make it with `make knn`")
    with reading(path, "a neighbour table", "Make it with `make knn`"):
        table = pq.read_table(path).combine_chunks()
        metadata = parquet_metadata(table.schema)
        column = table["neighbours"].combine_chunks()
        rows: NDArray[np.int32] = as_numpy(column.values).reshape(table.num_rows, column.type.list_size)
    if metadata.get("dataset_hash") != manifest.dataset_hash or table.num_rows != manifest.samples:
        raise UserError(f"{path} was made from other shards than the ones given: run `make knn` on these")
    return rows
