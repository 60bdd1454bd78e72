from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from evaluation.masks import find_files
from evaluation.pictures import save_mask
from pipeline.settings import UserError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two frames of 12 x 8 pixels with an EXIF orientation of 90 degrees, without masks."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for folder in ("frames", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("9", "10"):
        Image.new("RGB", (12, 8)).save(tmp_path / "frames" / f"{name}.jpg", exif=exif)
    return tmp_path / "frames", tmp_path / "masks"


@pytest.mark.parametrize(
    ("mask", "frame", "notes"),
    [
        ((12, 8), (12, 8), ["turned upright"]),
        ((8, 12), (8, 12), ["not turned"]),
        ((16, 24), (8, 12), ["not turned", "one is stretched"]),
        ((8, 8), (12, 8), ["turned upright", "one is stretched"]),  # says nothing: as viewers show them
    ],
)
def test_frames_lie_as_their_masks_do(
    folders: tuple[Path, Path], mask: tuple[int, int], frame: tuple[int, int], notes: list[str]
) -> None:
    save_mask(folders[1] / "9.png", np.ones(mask, np.uint8))
    files = find_files(*folders)
    assert [one.size for one in files.frames] == [frame, frame]
    assert len(files.notes) == len(notes)
    for message, expected in zip(files.notes, notes, strict=True):
        assert message.split("; ")[1].startswith(expected)


def test_masks_belong_to_frames_in_the_order_of_numbers(folders: tuple[Path, Path]) -> None:
    for name in ("9", "10", "._9"):
        save_mask(folders[1] / f"{name}.png", np.ones((12, 8), np.uint8))
    files = find_files(*folders)
    assert [frame.path.stem for frame in files.frames] == ["9", "10"]
    assert files.masks == {0: folders[1] / "9.png", 1: folders[1] / "10.png"}
    (folders[1] / "9.png").unlink()
    with pytest.raises(UserError, match=r"the first frame .*9\.jpg has no mask"):
        find_files(*folders)
