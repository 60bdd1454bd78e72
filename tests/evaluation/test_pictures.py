from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.frames import read_index_mask
from evaluation.pictures import (
    davis_palette,
    draw_joints,
    overlay,
    save_mask,
)
from tests.reference_data import read_arrays


def test_palette_is_that_of_davis() -> None:
    known = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
    np.testing.assert_array_equal(davis_palette()[:7], known)
    np.testing.assert_array_equal(davis_palette()[255], [224, 224, 192])
    recorded = read_arrays("eval_datasets")["davis/label_values"]  # blue, green, red
    np.testing.assert_array_equal(davis_palette()[:3, ::-1], recorded)


def test_masks_come_back_and_show_in_color(tmp_path: Path) -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save_mask(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_index_mask(tmp_path / "mask.png"), mask)
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), davis_palette()[mask])


def test_overlay_tints_objects_only() -> None:
    frame = np.full((2, 2, 3), 200, np.uint8)
    tinted = overlay(frame, np.array([[0, 1], [0, 0]], np.uint8))
    assert (tinted[[0, 1, 1], [0, 0, 1]] == 200).all()
    assert tinted[0, 1, 0] > tinted[0, 1, 1]


def test_skeletons_leave_lost_joints_out() -> None:
    frame = np.zeros((100, 120, 3), np.uint8)
    joints = np.full((2, 15), np.nan)
    assert not draw_joints(frame, joints).any()
    joints[:, 0], joints[:, 2] = (60, 50), (60, 10)  # neck and face, which a limb connects
    drawn = draw_joints(frame, joints)
    assert drawn[30, 60].any()
    assert not drawn[80].any()
