from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from evaluation.frames import (
    image_size,
    list_pictures,
    natural_key,
    network_input,
    numbering_notes,
    open_frames,
    read_frame,
    read_index_mask,
)
from pipeline.settings import UserError
from tests.reference_data import read_arrays


def test_network_input_is_the_recorded_one() -> None:
    arrays = read_arrays("eval_datasets")
    height, width = map(int, arrays["davis/network_hw"])
    image = network_input(arrays["davis/decoded_frame0_rgb"], (height, width))
    np.testing.assert_allclose(image.numpy(), arrays["davis/normalized_frame0"], rtol=0, atol=1e-5)


def test_gray_frames_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 10), 100, np.uint8)).save(tmp_path / "gray.jpg")
    assert read_frame(tmp_path / "gray.jpg").shape == (8, 10, 3)
    assert image_size(tmp_path / "gray.jpg") == (8, 10)


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


def test_numbers_in_names_count_by_their_value() -> None:
    ordered = ["1", "2", "0010", "11", "a", "a2b", "a10", "a10b", "b1_2", "b1_10"]
    assert sorted(sorted(ordered), key=natural_key) == ordered


def test_pictures_are_listed_in_the_order_of_their_numbers_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("10.jpg", "9.JPEG", "._9.jpg", "9.png", "list.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_pictures(tmp_path, ".jpg", ".jpeg")] == ["9.JPEG", "10.jpg"]
    (tmp_path / "010.jpg").touch()
    with pytest.raises(UserError, match=r"010\.jpg and 10\.jpg have the same frame number"):
        list_pictures(tmp_path, ".jpg")


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["0", "1", "2"], None),
        (["5"], None),
        (["00005", "00010", "00015"], None),  # every fifth frame
        (["clip2_8", "clip2_9", "clip2_10"], None),
        (["a", "b"], "kinds of frame names: 2 (1 like a, 1 like b)"),
        (["1", "2", "4", "5", "9"], "gaps in the frame numbers: 2 (first between 2 and 4)"),
        (["1", "2", "3", "cover"], "kinds of frame names: 2 (3 like 1, 1 like cover)"),
    ],
)
def test_gaps_and_several_kinds_of_names_are_noted(names: list[str], note: str | None) -> None:
    notes = numbering_notes(names)
    assert [text.split(";")[0] for text in notes] == ([note] if note else [])


def landscape(size: tuple[int, int]) -> float:
    return float(size[0] > size[1])


def portrait(size: tuple[int, int]) -> float:
    return float(size[0] < size[1])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_frames_are_turned_upright_unless_the_annotations_fit_their_pixels(tmp_path: Path, orientation: int) -> None:
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(tmp_path / "1.png", exif=exif)
    turned = orientation >= 5
    (frame,), (note,) = open_frames([tmp_path / "1.png"], portrait if turned else landscape)
    assert (frame.size, frame.orientation) == ((12, 8) if turned else (8, 12), orientation)
    assert "frames with an EXIF orientation: 1 (first 1); turned upright" in note
    upright = read_frame(frame.path, frame.orientation)
    assert upright.shape[:2] == frame.size
    corner = {2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[orientation]
    assert upright[corner].tolist() == pixels[0, 0].tolist()

    (frame,), (note,) = open_frames([tmp_path / "1.png"], landscape)
    assert (frame.size, frame.orientation) == ((8, 12), 1 if turned else orientation)
    assert ("not turned" in note) == turned


def test_frames_of_another_size_are_noted(tmp_path: Path) -> None:
    for number, size in enumerate([(12, 8), (12, 8), (6, 4)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    _, notes = open_frames(list_pictures(tmp_path, ".png"), landscape)
    assert notes == ["frames of another size than the first one's 12x8: 1 (first 2, 6x4); stretched to the same shape"]
