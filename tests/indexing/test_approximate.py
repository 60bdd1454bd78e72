from pathlib import Path

import numpy as np
import pytest

from indexing.approximate import ApproximateSearch, list_count, recall
from indexing.search import Rules
from indexing.store import FeatureFile
from pipeline.storage import open_storage
from tests.indexing.made import unit_vectors, write_npy
from tests.indexing.oracle import all_neighbours


def test_recall_is_the_share_of_the_exact_neighbours() -> None:
    exact = np.array([[1, 2, 3], [4, 5, 6]])
    assert recall(np.array([[3, 2, 1], [4, 5, 6]]), exact) == 1
    assert recall(np.array([[1, 9, 8], [9, 8, 7]]), exact) == pytest.approx(1 / 6)


def test_lists_grow_with_the_root_of_the_rows() -> None:
    assert list_count(4_000_000) == 8000
    assert list_count(16_000_000) == 16_000
    assert list_count(10) == 1


@pytest.mark.parametrize("block", [300, 1000])
def test_searching_all_lists_is_the_exact_search(block: int, tmp_path: Path) -> None:
    features = unit_vectors(1000, 16)
    write_npy(tmp_path / "f.npy", features.astype(np.float16))
    search = ApproximateSearch(FeatureFile(open_storage(str(tmp_path)), "f.npy"), probes=100, block=block)
    rules = Rules(4, groups=np.arange(1000) // 3)
    result = search(np.arange(200), features[:200], rules)
    expected = all_neighbours(features, rules)
    np.testing.assert_array_equal(result.rows, expected.rows[:200])
    np.testing.assert_allclose(result.similarity, expected.similarity[:200], atol=1e-6)


def test_entries_that_the_lists_cannot_fill_stay_empty(tmp_path: Path) -> None:
    features = unit_vectors(1000, 16)
    write_npy(tmp_path / "f.npy", features.astype(np.float16))
    search = ApproximateSearch(FeatureFile(open_storage(str(tmp_path)), "f.npy"), probes=1, block=1000)
    result = search(np.arange(50), features[:50], Rules(200))  # a list holds about 67 rows
    empty = result.rows < 0
    assert empty[:, -1].any()
    np.testing.assert_array_equal(empty, result.similarity == -np.inf)
