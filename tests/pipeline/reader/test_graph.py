"""Views against Pillow and torchvision, whose pixels are recorded in `tests/reference/augment_ops.npz`."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.reader.graph import build_graph, view_feed
from pipeline.reader.views import IMAGENET_MEAN, IMAGENET_STD, SOLARIZE_OFF, ViewSettings
from tests.reference_data import read_arrays

REFERENCE = read_arrays("augment_ops")
HEIGHT, WIDTH = REFERENCE["image"].shape[:2]
NEUTRAL: dict[str, Any] = {
    "top": 0,
    "left": 0,
    "height": HEIGHT,
    "width": WIDTH,
    "mirror": 0,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.0,
    "sigma": 0.0,
    "solarize": SOLARIZE_OFF,
}


def png(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return np.frombuffer(stream.getvalue(), np.uint8)


def run(parameters: dict[str, Any], size: int = 96) -> np.ndarray:
    """(size, size, 3) pixels, 0 to 255, of the reference image as a view with `parameters`; as global crop 2."""
    views = ViewSettings(global_size=size, local_crops=0)
    columns = {name: np.array([value]) for name, value in (NEUTRAL | parameters).items()}
    feed = {"current": [png(REFERENCE["image"])]} | view_feed("current", 0, columns) | view_feed("current", 1, columns)
    pipeline = build_graph(views, 0, 1, lambda: feed, threads=1, device_id=None, prefetch=1)
    normalised = np.asarray(pipeline.run()[1].at(0)).transpose(1, 2, 0)
    return np.asarray(255 * (normalised * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)))


@pytest.mark.parametrize("size", [32, 48, 96])
@pytest.mark.parametrize("number", range(4))
def test_crop_and_bicubic_resize(number: int, size: int) -> None:
    box = dict(zip(("top", "left", "height", "width"), REFERENCE["crop_params"][number].tolist(), strict=True))
    difference = np.abs(run(box, size) - REFERENCE[f"crop{number}_bicubic_{size}"])
    inside = difference[2:-2, 2:-2]  # at a crop's edge DALI's filter sees beyond the crop, Pillow's does not
    assert inside.mean() < 0.6
    assert difference.mean() < 1.5


def baseline() -> np.ndarray:
    return run({})


def reference(name: str) -> np.ndarray:
    """A recorded operation on the whole image, resized like the view."""
    pixels = Image.fromarray(REFERENCE[name])
    return np.asarray(pixels.resize((96, 96), Image.Resampling.BICUBIC)).astype(float)


@pytest.mark.parametrize(
    ("parameters", "name", "tolerance"),
    [
        ({"brightness": 0.6}, "brightness_0.6", 1.0),
        ({"brightness": 1.4}, "brightness_1.4", 1.0),
        ({"saturation": 0.8}, "saturation_0.8", 1.5),
        ({"saturation": 1.2}, "saturation_1.2", 1.5),
        ({"saturation": 0.0}, "grayscale3", 1.5),
        ({"sigma": 1.3}, "blur9_sigma_1.3", 4.0),
        ({"mirror": 1}, "hflip", 1.0),
    ],
)
def test_operations_are_close_to_torchvision(parameters: dict[str, float], name: str, tolerance: float) -> None:
    ours, theirs = run(parameters), reference(name)
    assert np.abs(ours - theirs).mean() < tolerance
    assert np.abs(ours - baseline()).mean() > 3 * np.abs(ours - theirs).mean()


@pytest.mark.parametrize("name", ["contrast_0.6", "contrast_1.4", "hue_-0.1", "hue_0.1"])
def test_contrast_and_hue_go_the_same_way(name: str) -> None:
    # DALI turns contrast about mid grey and hue in YIQ; torchvision about the image's mean and in HSV
    operation, value = name.split("_")
    change, expected = run({operation: float(value)}) - baseline(), reference(name) - baseline()
    assert np.corrcoef(change.ravel(), expected.ravel())[0, 1] > 0.4


def test_solarize_inverts_bright_pixels() -> None:
    plain, solarized = baseline(), run({"solarize": 128})
    expected = np.where(plain < 127.5, plain, 255 - plain)
    np.testing.assert_allclose(solarized, expected, atol=1e-3)
    assert np.abs(solarized - reference("solarize_128")).mean() < 12  # resized before, not after


def test_no_blur_leaves_the_view_alone() -> None:
    np.testing.assert_allclose(run({"sigma": 0.0}), baseline(), atol=1e-6)
    assert np.abs(run({"sigma": 0.8}) - baseline()).max() > 0.5
