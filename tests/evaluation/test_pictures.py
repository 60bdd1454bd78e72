from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.frames import read_index_mask
from evaluation.pictures import Column, davis_palette, overlay, save_contact_sheet, save_mask, sheet_frames


def test_palette_is_that_of_davis() -> None:
    known = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
    np.testing.assert_array_equal(davis_palette()[:7], known)
    np.testing.assert_array_equal(davis_palette()[255], [224, 224, 192])


def test_masks_come_back_and_show_in_colour(tmp_path: Path) -> None:
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


def test_sheet_shows_the_first_and_the_last_frame() -> None:
    assert sheet_frames(1) == [0]
    assert sheet_frames(3) == [0, 1, 2]
    assert (sheet_frames(50)[0], sheet_frames(50)[-1], len(sheet_frames(50))) == (0, 49, 6)


def test_contact_sheet_has_the_prediction_above_the_truth(tmp_path: Path) -> None:
    frame, blank = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    columns = [Column("a", frame, blank + 1, blank + 2), Column("b", frame, blank + 1, None)]
    save_contact_sheet(tmp_path / "sheet.png", columns)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape == (2 * (16 + 240), 2 * 320, 3)
    red, green, white = sheet[150, 100], sheet[400, 100], sheet[400, 500]
    assert red[0] > 50 > red[1]
    assert green[1] > 50 > green[0]
    assert (white == 255).all()
