import numpy as np
import pytest
import torch

from benchmarks.demo_data.puppet import JOINT_NAMES
from evaluation.jhmdb_scores import (
    JOINTS,
    correct_shares,
    gaussian,
    joints_to_labels,
    labels_to_joints,
    normalized_distances,
    pck,
)
from tests.reference_data import read_arrays


def test_labels_of_joints_are_the_recorded_ones() -> None:
    arrays = read_arrays("eval_datasets")
    joints = arrays["jhmdb/pos_img_one_based"] - 1
    height, width = map(int, arrays["jhmdb/image_hw"])
    for frame, recorded in zip((0, -1), arrays["jhmdb/labels_frame0_and_last"], strict=True):
        labels = joints_to_labels(joints[:, :, frame], (height, width), (20, 20), 0.5)
        np.testing.assert_allclose(labels.numpy(), recorded, rtol=0, atol=1e-7)


def test_a_bump_reaches_farther_to_the_left_and_up() -> None:
    bump = gaussian((9, 9), 4.2, 5.4, 0.5)
    np.testing.assert_allclose(bump, read_arrays("eval_datasets")["jhmdb/single_gaussian"], rtol=0, atol=1e-9)
    assert bump[5, 4] == 1
    assert not gaussian((9, 9), 20, 5, 0.5).any()


def test_joints_of_propagated_labels_are_the_recorded_ones() -> None:
    arrays = read_arrays("eval_propagation")
    soft = torch.from_numpy(arrays["jhmdb_like/soft"])
    joints = np.stack([labels_to_joints(labels, 5).numpy() for labels in soft], -1)
    for name in ("pose_xy", "pose_file"):
        np.testing.assert_allclose(joints, arrays[f"jhmdb_like/{name}"], rtol=0, atol=1e-5)
    assert (joints[:, 4] == -1).all()  # the joint that was lost in the recording


def test_a_joint_is_the_weighted_mean_of_its_five_highest_cells() -> None:
    labels = torch.zeros(4, 8, 16)
    labels[1, :6, 1] = torch.tensor([0.1, 0.2, 0.4, 0.4, 0.2, 0.3])
    x, y = labels_to_joints(labels, 5)[:, 0].tolist()
    assert x == pytest.approx((0.2 * 1 + 0.4 * 2 + 0.4 * 3 + 0.2 * 4 + 0.3 * 5) / 1.5)
    assert y == pytest.approx(1)


def test_pck_is_the_recorded_one() -> None:
    arrays = read_arrays("eval_jhmdb_pck")
    distances = []
    for clip in ("v0", "v1", "v2"):
        truth, height_width = arrays[f"{clip}/pos_img"] - 1, arrays[f"{clip}/height_width"]
        grid = arrays[f"{clip}/pred_grid"].astype(float)
        result = np.where(grid < 0, np.nan, grid * (height_width[::-1] / 20)[:, None, None])
        distances += [normalized_distances(truth[..., t], result[..., t], 0.6) for t in range(1, truth.shape[2])]
    assert np.isnan(np.stack(distances)).any()
    found_pck = 100 * pck(np.stack(distances), list(arrays["thresholds"]))
    np.testing.assert_allclose(found_pck, arrays["pck"], rtol=0, atol=1e-9)


def test_the_person_is_measured_on_the_joints_that_were_found() -> None:
    truth = np.zeros((2, 15))
    truth[:, 1], truth[:, 2] = (30, 40), (300, 400)
    result = np.full((2, 15), np.nan)
    result[:, :2] = truth[:, :2]
    result[0, 0] = 3
    distance = normalized_distances(truth, result, 0.6)
    assert distance[0] == pytest.approx(3 / (0.6 * 50))
    assert np.isnan(distance[2:]).all()


def test_every_joint_weighs_the_same_however_often_it_is_lost() -> None:
    distances = np.full((4, 15), np.nan)
    distances[:, 0] = 0.05
    distances[0, 1] = 0.5
    shares = correct_shares(distances, [0.1])[0]
    assert shares[:2].tolist() == [1, 0]
    assert pck(distances, [0.1, 0.6]).tolist() == [0.5, 1]
    assert np.isnan(pck(np.full((2, 15), np.nan), [0.1])).all()
    assert pck(np.full((1, 15), np.inf), [0.1]).tolist() == [0]


def test_joints_are_those_of_jhmdb_in_their_order() -> None:
    assert [name.replace("_", " ").replace("-", " ") for name in JOINT_NAMES] == list(JOINTS)
