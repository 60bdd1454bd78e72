import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.evaluation_reference import boundary_measure_by_dilation
from evaluation.benchmark import mean_row
from evaluation.davis_scores import (
    boundary,
    boundary_measure,
    object_row,
    region_similarity,
    statistics,
)
from tests.reference_data import read_arrays

Masks = NDArray[np.uint8]


def per_frame(truth: Masks, prediction: Masks, one: int) -> tuple[list[float], list[float]]:
    """J and F of one object in each frame but the first and the last."""
    pairs = [(t == one, p == one) for t, p in zip(truth[1:-1], prediction[1:-1], strict=True)]
    return [region_similarity(*pair) for pair in pairs], [boundary_measure(*pair) for pair in pairs]


def test_every_frame_object_and_the_global_row_are_the_recorded_ones() -> None:
    arrays = read_arrays("eval_davis")
    rows = []
    for number, name in enumerate(arrays["objects"]):
        sequence, one = name.rsplit("_", 1)
        region, contour = per_frame(arrays[f"gt/{sequence}"], arrays[f"pred/{sequence}"], int(one))
        np.testing.assert_array_equal(region, arrays[f"J_per_frame/{name}"])
        np.testing.assert_array_equal(contour, arrays[f"F_per_frame/{name}"])
        rows.append(object_row(region, contour))
        for measure in "JF":
            for letter, statistic in (("M", "Mean"), ("R", "Recall"), ("D", "Decay")):
                assert rows[-1][f"{measure}-{statistic}"] == arrays[f"{measure}_{letter}_per_object"][number]
    total = mean_row(rows)
    assert list(total) == ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    np.testing.assert_allclose(list(total.values()), arrays["global_J&F_Jm_Jr_Jd_Fm_Fr_Fd"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", range(4))
def test_boundary_and_its_measure_are_the_recorded_ones(number: int) -> None:
    arrays = read_arrays("eval_davis")
    shape = arrays[f"boundary{number}/shape"]

    def unpack(name: str) -> NDArray[np.bool_]:
        return np.unpackbits(arrays[f"boundary{number}/{name}"])[: shape.prod()].reshape(shape).astype(bool)

    np.testing.assert_array_equal(boundary(unpack("gt")), unpack("gt_edge"))
    assert boundary_measure(unpack("gt"), unpack("pred")) == arrays[f"boundary{number}/F"]
    assert region_similarity(unpack("gt"), unpack("pred")) == arrays[f"boundary{number}/J"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(5, 7), (40, 60), (150, 90)]), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_boundary_measure_equals_dilation_by_a_disk(seed: int, shape: tuple[int, int], level: float) -> None:
    random = np.random.default_rng(seed)
    smooth = [ndimage.uniform_filter(random.random(shape), 5) for _ in range(2)]
    truth, prediction = smooth[0] < level, smooth[1] < 0.5
    assert boundary_measure(truth, prediction) == boundary_measure_by_dilation(truth, prediction)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 119), st.integers(0, 89), st.integers(1, 40), st.integers(1, 40)), max_size=4))
def test_boundary_measure_of_boxes_anywhere_also_at_the_border(boxes: list[tuple[int, int, int, int]]) -> None:
    masks = np.zeros((2, 120, 90), bool)
    for number, (top, left, height, width) in enumerate(boxes):
        masks[number % 2, top : top + height, left : left + width] = True
    assert boundary_measure(masks[0], masks[1]) == boundary_measure_by_dilation(masks[0], masks[1])


def test_empty_masks_agree_perfectly_and_a_missed_object_scores_nothing() -> None:
    empty, full = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    full[2:4, 3:6] = True
    assert (region_similarity(empty, empty), boundary_measure(empty, empty)) == (1, 1)
    assert (region_similarity(full, empty), boundary_measure(full, empty)) == (0, 0)
    assert (region_similarity(empty, full), boundary_measure(empty, full)) == (0, 0)
    assert (region_similarity(full, full), boundary_measure(full, full)) == (1, 1)


def test_statistics_of_long_short_and_empty_sequences() -> None:
    assert statistics([1.0, 0.6, 0.5, 0.0]) == pytest.approx((0.525, 0.5, 0.8 - 0.25))
    assert statistics([0.7]) == pytest.approx((0.7, 1.0, 0.0))
    assert np.isnan(statistics([])).all()
    assert statistics([1.0] * 200 + [0.0] * 200).decay == 1  # the official scorer's 8-bit positions end at 255
