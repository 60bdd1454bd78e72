from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.engines import cpu_nearest
from indexing.search import Block, Nearest, Neighbours, Queries, Rules, error_bound, no_neighbours, search_block
from tests.indexing.made import unit_vectors
from tests.indexing.oracle import all_neighbours


def search_in_blocks(
    features: np.ndarray, rules: Rules, edges: list[int], query_edges: list[int], nearest: Nearest = cpu_nearest
) -> Neighbours:
    parts = []
    for first, last in pairwise(query_edges):
        result = no_neighbours(last - first, rules.k)
        for start, stop in pairwise(edges):
            block = Block(start, features[start:stop])
            queries = Queries(np.arange(first, last), features[first:last])
            result = search_block(queries, block, result, rules, nearest, threads=2)
        parts.append(result)
    return Neighbours(np.concatenate([part.rows for part in parts]), np.concatenate([p.similarity for p in parts]))


def check(result: Neighbours, expected: Neighbours) -> None:
    np.testing.assert_array_equal(result.rows, expected.rows)
    np.testing.assert_array_equal(result.similarity, expected.similarity)


def cuts(rows: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, rows - 1), max_size=4).map(lambda inner: [0, *sorted(set(inner)), rows])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_rows_of_a_full_sort_with_ties_and_duplicates(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 90))
    different = data.draw(st.integers(1, rows))  # the fewer, the more duplicates
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    features = unit_vectors(different, data.draw(st.sampled_from([2, 16, 33])))[rng.integers(0, different, rows)]
    rules = Rules(
        k=data.draw(st.integers(1, min(6, rows - 1))),
        max_similarity=data.draw(st.sampled_from([None, 0.999])),
        groups=data.draw(st.sampled_from([None, rng.integers(0, 5, rows)])),
    )
    result = search_in_blocks(features, rules, data.draw(cuts(rows)), data.draw(cuts(rows)))
    check(result, all_neighbours(features, rules))


def test_more_duplicates_than_candidates_are_taken_in_row_order() -> None:
    features = unit_vectors(600, 32)
    features[np.random.default_rng(1).permutation(600)[:300]] = features[0]
    check(search_in_blocks(features, Rules(k=5), [0, 350, 600], [0, 600]), all_neighbours(features, Rules(k=5)))


def test_rounding_of_the_float32_search_is_not_seen() -> None:
    """Rows so close that float32 may order them in any way, and a search that orders them as badly as it may."""
    rng = np.random.default_rng(0)
    features = np.repeat(unit_vectors(4, 384), 100, axis=0).astype(np.float16)
    flipped = rng.integers(0, 384, 400)
    features[np.arange(400), flipped] = np.nextafter(features[np.arange(400), flipped], np.float16(1))
    features = features.astype(np.float32)

    def worst(queries: np.ndarray, base: Block, count: int) -> tuple[np.ndarray, np.ndarray]:
        similarity = queries.astype(np.float64) @ base.features.astype(np.float64).T
        similarity += rng.uniform(-0.9, 0.9, similarity.shape) * error_bound(384)
        order = np.argsort(-similarity, axis=1)[:, :count]
        return np.take_along_axis(similarity, order, 1).astype(np.float32), order

    check(search_in_blocks(features, Rules(k=5), [0, 250, 400], [0, 400], worst), all_neighbours(features, Rules(k=5)))


@pytest.mark.parametrize("width", [16, 384, 1024])
def test_the_bound_holds_for_the_search_of_faiss(width: int) -> None:
    features = np.abs(unit_vectors(300, width))  # sums without cancellation round most
    similarity, positions = cpu_nearest(features, Block(0, features), 300)
    exact = features.astype(np.float64) @ features.astype(np.float64).T
    error = np.abs(similarity - np.take_along_axis(exact, positions, 1)).max()
    assert error < error_bound(width)


def test_the_query_is_left_out_by_number_even_among_duplicates() -> None:
    features = unit_vectors(20)
    features[7] = features[3]
    result = search_in_blocks(features, Rules(k=4), [0, 20], [0, 20])
    assert (result.rows != np.arange(20)[:, None]).all()
    assert (result.rows[3, 0], result.rows[7, 0]) == (7, 3)


def test_entries_without_an_allowed_row_stay_empty() -> None:
    rules = Rules(k=3, groups=np.array([0, 0, 0, 1]))
    result = search_in_blocks(unit_vectors(4), rules, [0, 4], [0, 4])
    assert result.rows.tolist()[:3] == [[3, -1, -1]] * 3
    assert sorted(result.rows[3].tolist()) == [0, 1, 2]
