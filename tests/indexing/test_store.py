from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexing import store
from indexing.store import FEATURES, FeatureFile, read_metadata, unit_rows, unpack, write_features
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.indexing.made import unit_vectors

KEYS = pa.chunked_array([[f"key{row}" for row in range(50)]])


def write(folder: Path, cuts: list[int], features: np.ndarray) -> bytes:
    blocks = np.split(features.astype(np.float16), cuts)
    write_features(open_storage(str(folder)), KEYS, blocks, features.shape[1], {"dataset_hash": "abc"})
    return (folder / FEATURES).read_bytes()


def test_file_holds_keys_and_features_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ROW_GROUP", 16)
    features = unit_vectors(50, 8)
    whole = write(tmp_path / "whole", [], features)
    assert write(tmp_path / "cut", [1, 2, 30, 30, 47], features) == whole
    table = pq.read_table(tmp_path / "cut" / FEATURES)
    assert table.schema.field("feature").type == pa.list_(pa.float16(), 8)
    assert table["key"].to_pylist() == KEYS.to_pylist()
    np.testing.assert_array_equal(np.stack(table["feature"].to_numpy()), features)
    metadata = read_metadata(open_storage(str(tmp_path / "cut")))
    assert metadata is not None
    assert (metadata["dataset_hash"], metadata["rows"]) == ("abc", "50")


def test_blocks_of_rows_are_read_from_the_raw_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ROW_GROUP", 16)
    features = unit_vectors(50, 8)
    write(tmp_path, [], features)
    out = open_storage(str(tmp_path))
    unpack(out, out, "raw.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "raw.npy"), features)
    file = FeatureFile(out, "raw.npy")
    assert (file.rows, file.width) == (50, 8)
    buffer = np.zeros((40, 8), np.float32)
    for start, stop in ((0, 50), (3, 4), (15, 49)):
        np.testing.assert_array_equal(file.read(start, stop), features[start:stop])
    read = file.read(5, 40, buffer)
    assert np.shares_memory(read, buffer)
    np.testing.assert_array_equal(read, features[5:40])


def test_vectors_are_scaled_to_unit_length() -> None:
    units = unit_rows(np.array([[3.0, 4.0], [0.0, 1e-6]]), range(2), "these")
    np.testing.assert_array_equal(units, np.array([[0.6, 0.8], [0, 1]], np.float16))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "not finite numbers"), (np.inf, "not finite numbers"), (0.0, "a vector of zeros")]
)
def test_a_vector_without_direction_is_named_by_its_row(value: float, message: str) -> None:
    vectors = np.ones((4, 3), np.float32)
    vectors[2] = value
    with pytest.raises(UserError, match=f"these hold .*{message}, first in row 102"):
        unit_rows(vectors, range(100, 100 + len(vectors)), "these")


def test_damaged_features_are_one_sentence(tmp_path: Path) -> None:
    out = open_storage(str(tmp_path))
    assert read_metadata(out) is None
    content = write(tmp_path, [], unit_vectors(50, 8))
    (tmp_path / FEATURES).write_bytes(content[:-200])
    with pytest.raises(UserError, match=r"is not a Parquet file \(.*\)\. Move it away and run the command again"):
        read_metadata(out)
    write(tmp_path, [], unit_vectors(50, 8))
    pq.write_table(pq.read_table(tmp_path / FEATURES).replace_schema_metadata({}), tmp_path / FEATURES)
    with pytest.raises(UserError, match="was not written by this program and would be replaced: move it away"):
        read_metadata(out)
    write(tmp_path, [], np.full((50, 8), np.nan))
    with pytest.raises(UserError, match=r"row 0 of .* is not a unit vector"):
        unpack(out, out, "raw.npy")
