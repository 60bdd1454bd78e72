import numpy as np
import pytest

from indexing.report import describe, hubness, same_class

ROWS = np.array([[1, 2], [0, 2], [0, 1], [0, 1]], np.int32)


def test_same_class_rate_is_overall_by_rank_and_against_chance() -> None:
    figures = same_class(ROWS, np.array([0, 0, 1, 1]))
    assert figures["same_class_rate"] == pytest.approx(2 / 8)
    assert figures["same_class_rate_by_rank"] == pytest.approx([2 / 4, 0])
    # of the 12 ordered pairs of different samples 4 are of one class
    assert figures["same_class_rate_by_chance"] == pytest.approx(4 / 12)


def test_samples_without_a_label_do_not_count() -> None:
    figures = same_class(ROWS, np.array([0, 0, -1, 1]))
    assert figures["same_class_rate"] == pytest.approx(2 / 4)
    assert same_class(ROWS, np.full(4, -1))["same_class_rate"] is None


def test_hubness_says_who_is_everybodys_neighbour() -> None:
    figures = hubness(ROWS)
    assert (figures["most_popular_row"], figures["most_popular_row_appears"]) == (0, 3)
    assert figures["never_a_neighbour"] == pytest.approx(1 / 4)
    from scipy.stats import skew

    assert figures["popularity_skewness"] == pytest.approx(skew([3, 3, 2, 0]))


def test_quantiles_and_duplicates_are_those_of_the_similarities() -> None:
    similarity = np.array([[1.0, 0.5], [0.9, 0.4], [0.8, 0.3], [0.7, 0.2]], np.float32)
    figures = describe(ROWS, similarity, np.zeros(4, int))
    assert figures["similarity_quantiles"]["0.5"] == pytest.approx(0.6)
    assert figures["similarity_by_rank"] == pytest.approx([0.85, 0.35])
    assert figures["duplicate_share"] == pytest.approx(1 / 4)
