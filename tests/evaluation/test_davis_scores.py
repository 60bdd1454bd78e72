import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from evaluation.davis_scores import (
    boundary,
    boundary_measure,
    mean_row,
    object_row,
    region_similarity,
    statistics,
)
from evaluation.frames import read_index_mask
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


def boundary_measure_by_dilation(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """F the long way round: each boundary is thickened by a disk, and the other one is cut with it."""
    radius = int(np.ceil(0.008 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    edges = [boundary(mask) for mask in (prediction, truth)]
    thick = [ndimage.binary_dilation(edge, y**2 + x**2 <= radius**2) for edge in edges]
    counts = [int(edge.sum()) for edge in edges]
    if 0 in counts:
        return float(counts[0] == counts[1])
    precision, recall = (int((edges[i] & thick[1 - i]).sum()) / counts[i] for i in (0, 1))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(5, 7), (40, 60), (150, 90)]), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_boundary_measure_equals_dilation_by_a_disk(seed: int, shape: tuple[int, int], level: float) -> None:
    random = np.random.default_rng(seed)
    smooth = [ndimage.uniform_filter(random.random(shape), 5) for _ in range(2)]
    truth, prediction = smooth[0] < level, smooth[1] < 0.5
    assert boundary_measure(truth, prediction) == boundary_measure_by_dilation(truth, prediction)


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


def test_recorded_predictions_of_osvos_have_their_official_scores(real_data: Path) -> None:
    davis = real_data / "davis"
    with (davis / "reference_scores_osvos.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    for row in rows:
        truth_files = sorted((davis / "Annotations" / "480p" / row["sequence"]).glob("*.png"))
        truth = np.stack([read_index_mask(file) for file in truth_files])
        results = davis / "osvos_results" / row["sequence"]
        prediction = np.stack([read_index_mask(results / file.name) for file in truth_files])
        assert len(truth) == int(row["frames"])
        scores = object_row(*per_frame(truth, prediction, int(row["object"])))
        for name in ("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"):
            assert f"{scores[name]:.4f}" == row[name], (row["sequence"], name)
