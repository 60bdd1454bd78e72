from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation.frames import image_size, network_input, read_frame, read_index_mask
from pipeline.settings import UserError
from tests.reference_data import read_arrays


def test_network_input_is_the_recorded_one() -> None:
    arrays = read_arrays("eval_datasets")
    height, width = map(int, arrays["davis/network_hw"])
    image = network_input(arrays["davis/decoded_frame0_rgb"], (height, width))
    np.testing.assert_allclose(image.numpy(), arrays["davis/normalized_frame0"], rtol=0, atol=1e-5)


def test_grey_frames_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 10), 100, np.uint8)).save(tmp_path / "grey.jpg")
    assert read_frame(tmp_path / "grey.jpg").shape == (8, 10, 3)
    assert image_size(tmp_path / "grey.jpg") == (8, 10)


def test_void_pixels_are_background(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_index_mask(tmp_path / "mask.png"), [[0, 3], [0, 1]])


@pytest.mark.parametrize("kind", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16)])
def test_masks_without_ids_are_refused_by_name(tmp_path: Path, kind: NDArray[Any]) -> None:
    Image.fromarray(kind).save(tmp_path / "odd.png")
    with pytest.raises(UserError, match=r"odd\.png has the mode .* must be a palette"):
        read_index_mask(tmp_path / "odd.png")


def test_broken_files_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1500])
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "missing.jpg", "empty.png"):
        with pytest.raises(UserError, match=name):
            read_frame(tmp_path / name)
    for read in (read_index_mask, image_size):
        with pytest.raises(UserError, match=r"empty\.png"):
            read(tmp_path / "empty.png")
