import numpy as np
import pytest

from indexing.search import drop_query, search


def unit_vectors(rows: int, width: int = 16) -> np.ndarray:
    features = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_neighbours_are_those_of_a_full_sort(block: int) -> None:
    features = unit_vectors(200)
    parts = list(search(features, k=5, block=block))
    rows = np.concatenate([part.rows for part in parts])
    similarity = np.concatenate([part.similarity for part in parts])
    full = features.astype(np.float64) @ features.astype(np.float64).T
    np.fill_diagonal(full, -np.inf)
    assert (rows == np.argsort(-full, axis=1)[:, :5]).all()
    np.testing.assert_allclose(similarity, -np.sort(-full, axis=1)[:, :5], atol=1e-6)
    assert rows.dtype == np.int32


def test_the_query_is_left_out_by_number_even_among_duplicates() -> None:
    features = unit_vectors(20)
    features[7] = features[3]
    ((rows, similarity),) = search(features, k=4)
    assert (rows != np.arange(20)[:, None]).all()
    assert rows[3, 0] == 7
    assert rows[7, 0] == 3
    assert similarity[3, 0] == pytest.approx(1)


def test_equal_similarities_are_ordered_by_row() -> None:
    rows = np.array([[9, 4, 2, 0]])
    found = drop_query(rows, np.array([[0.5, 0.5, 1.0, 0.5]], np.float32), np.array([4]))
    assert found.rows.tolist() == [[2, 0, 9]]
    assert found.similarity.tolist() == [[1.0, 0.5, 0.5]]


def test_more_duplicates_than_neighbours_drop_the_last() -> None:
    found = drop_query(np.array([[1, 2, 3]]), np.ones((1, 3), np.float32), np.array([8]))
    assert found.rows.tolist() == [[1, 2]]
