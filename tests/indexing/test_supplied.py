from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexing.store import FEATURES
from indexing.supplied import import_features
from pipeline.dataset import ShardDataset
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.indexing.made import unit_vectors, write_rows

ROWS = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return ShardDataset(write_rows(tmp_path_factory.mktemp("made") / "shards", ROWS))


def imported(path: Path, dataset: ShardDataset, out: Path) -> np.ndarray:
    import_features(path, dataset, open_storage(str(out)), {"supplied_sha256": "x"})
    return np.stack(pq.read_table(out / FEATURES)["feature"].to_numpy())


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_npy_and_parquet_of_any_length_of_vectors_give_unit_features(dataset: ShardDataset, tmp_path: Path) -> None:
    features = unit_vectors(ROWS)
    scaled = features.astype(np.float64) * np.arange(1, ROWS + 1)[:, None]
    np.save(tmp_path / "f.npy", scaled)
    paths = [tmp_path / "f.npy"]
    paths.append(parquet(tmp_path / "list.parquet", feature=scaled.tolist()))
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(scaled.astype(np.float32).ravel()), 16)
    paths.append(parquet(tmp_path / "fixed.parquet", key=dataset.keys, feature=fixed))
    for path in paths:
        np.testing.assert_allclose(imported(path, dataset, tmp_path / path.stem), features, atol=1e-3)


def vectors(rows: int = ROWS, width: int = 16) -> list[list[float]]:
    return unit_vectors(rows, width).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"feature": vectors(7)}, f"holds 7 vectors, but .* has {ROWS} samples"),
        ({"feature": vectors(), "key": [f"other{i}" for i in range(ROWS)]}, "another dataset or in another order"),
        ({"vector": vectors()}, "has no column `feature`, only vector"),
        ({"feature": list(range(ROWS))}, "a list of floats in each row is needed"),
        ({"feature": [*vectors()[:-1], [1.0]]}, f"row {ROWS - 1} of .* is not a vector of 16 values"),
        ({"feature": [*vectors()[:-1], None]}, f"row {ROWS - 1} of .* is not a vector of 16 values"),
        ({"feature": [*vectors()[:-1], [float("nan")] * 16]}, f"not finite numbers, first in row {ROWS - 1}"),
        ({"feature": pa.array([[]] * ROWS, pa.list_(pa.float32()))}, "holds vectors of width 0"),
    ],
)
def test_parquet_that_does_not_fit_is_one_sentence(
    columns: dict[str, Any], message: str, dataset: ShardDataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        imported(parquet(tmp_path / "f.parquet", **columns), dataset, tmp_path)
    assert not (tmp_path / FEATURES).exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (unit_vectors(7), f"holds 7 vectors, but .* has {ROWS} samples"),
        (np.ones((ROWS, 4), int), "a float array"),
        (np.ones(ROWS), "a float array"),
        (np.full((ROWS, 4), np.nan), "not finite numbers, first in row 0"),
    ],
)
def test_npy_that_does_not_fit_is_one_sentence(
    array: np.ndarray, message: str, dataset: ShardDataset, tmp_path: Path
) -> None:
    np.save(tmp_path / "f.npy", array)
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "f.npy", dataset, tmp_path)


def test_features_of_another_dataset_are_refused(dataset: ShardDataset, tmp_path: Path) -> None:
    table = pa.table({"feature": vectors()}).replace_schema_metadata({"dataset_hash": "other"})
    pq.write_table(table, tmp_path / "f.parquet")
    with pytest.raises(UserError, match="features of another dataset"):
        imported(tmp_path / "f.parquet", dataset, tmp_path)


@pytest.mark.parametrize("content", [b"nothing of the kind", b"", b"PAR1PAR1", b"\x93NUMPY\x01\x00\xff\xff{'descr'"])
@pytest.mark.parametrize("name", ["f.npy", "f.parquet", "f.txt"])
def test_a_file_of_another_kind_is_one_sentence(
    name: str, content: bytes, dataset: ShardDataset, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        imported(tmp_path / name, dataset, tmp_path)
