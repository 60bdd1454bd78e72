from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.look.targets import PointTarget, read_points, read_target_mask
from evaluation.pictures import davis_palette, save_mask
from pipeline.settings import UserError


def test_points_come_back_from_their_labels() -> None:
    target = PointTarget(read_points((0.0, 0.0, 0.51, 0.3, 0.99, 0.99)))
    labels = target.first_labels((6, 8))
    assert labels.shape == (6, 8, 4)
    rows, columns = np.divmod(labels[..., 1:].flatten(0, 1).argmax(0).numpy(), 8)
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 5], [0, 4, 7]), "the cells that hold them"
    found = target.predict(labels)
    assert np.abs(found - target.points).max() < 1 / 8
    labels[..., 2] = 0
    assert np.isnan(target.predict(labels)[:, 1]).all()
    drawn = target.draw(np.zeros((60, 80, 3), np.uint8), target.predict(labels))
    assert (drawn[5, 5] == davis_palette()[1]).all()
    assert not drawn[15:25, 35:45].any(), "a point that is lost is not drawn"


def test_masks_of_one_object_or_of_several(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 2:4] = 255
    save_mask(path, mask)
    read, ids = read_target_mask(path, (60, 80))
    assert ids == (0, 1)
    assert ((read == 1) == (mask == 255)).all(), "0 and 255 alone are an object"
    mask[0, 0] = 7
    save_mask(path, mask)
    read, ids = read_target_mask(path, (60, 80))
    assert ids == (0, 7)
    assert (read == 7).sum() == 1, "beside an id, 255 is void"
    with pytest.raises(UserError, match=r"measures 8x6, the frames of the video 80x80: it must be of the same shape"):
        read_target_mask(path, (80, 80))
    save_mask(path, np.zeros((6, 8), np.uint8))
    with pytest.raises(UserError, match="shows no object"):
        read_target_mask(path, (60, 80))
    Image.new("RGB", (8, 6)).save(path)
    with pytest.raises(UserError, match="has the mode RGB"):
        read_target_mask(path, (60, 80))
