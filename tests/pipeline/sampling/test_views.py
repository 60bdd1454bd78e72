import numpy as np
import pytest

from pipeline.sampling.views import (
    CROP_DRAWS,
    PHOTOMETRY_DRAWS,
    SOLARIZE_OFF,
    ViewSettings,
    center_boxes,
    current_boxes,
    draw_photometry,
    random_boxes,
)
from tests.reference_data import read_json

REFERENCE = read_json("data_path")
PERCENTILES = [0, 5, 25, 50, 75, 95, 100]
DRAWS = 20_000


@pytest.mark.parametrize(("size", "expected"), REFERENCE["center_crop_geometry_WxH_to_top_left_height_width"].items())
def test_center_boxes_match_the_released_code(size: str, expected: list[int]) -> None:
    width, height = (np.array([int(side)]) for side in size.split("x"))
    assert [int(edge[0]) for edge in center_boxes(height, width)] == expected


@pytest.mark.parametrize("kind", ["global", "local"])
def test_random_boxes_match_the_released_code(kind: str) -> None:
    settings = ViewSettings()
    area = settings.global_area if kind == "global" else settings.local_area
    uniform = np.random.default_rng(0).random((DRAWS, CROP_DRAWS))
    boxes = random_boxes(np.full(DRAWS, 256), np.full(DRAWS, 340), np.array(area), uniform)
    assert (boxes.top >= 0).all()
    assert (boxes.left >= 0).all()
    assert (boxes.top + boxes.height <= 256).all()
    assert (boxes.left + boxes.width <= 340).all()
    expected = REFERENCE[f"{kind}_crop_stats_340x256"]

    def compare(values: np.ndarray, reference: list[float], tolerance: float) -> None:
        ours = np.percentile(values, PERCENTILES)
        np.testing.assert_allclose(ours[1:-1], reference[1:-1], atol=tolerance)

    compare(boxes.height * boxes.width / (256 * 340), expected["area_fraction_percentiles_0_5_25_50_75_95_100"], 0.01)
    compare(boxes.width / boxes.height, expected["aspect_w_over_h"], 0.015)
    compare(boxes.top, expected["top"], 3)
    compare(boxes.left, expected["left"], 3)


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))])
def test_a_frame_that_no_crop_fits_gets_its_center_box(
    height: int, width: int, expected: tuple[int, int, int, int]
) -> None:
    uniform = np.random.default_rng(0).random((50, CROP_DRAWS))
    boxes = random_boxes(np.full(50, height), np.full(50, width), np.array([0.9, 1.0]), uniform)
    assert {tuple(int(e) for e in edge) for edge in zip(*boxes, strict=True)} == {expected}


def photometry(settings: ViewSettings) -> dict[str, np.ndarray]:
    uniform = np.random.default_rng(0).random((DRAWS, 3, PHOTOMETRY_DRAWS))
    return vars(draw_photometry(settings, np.arange(3), uniform))


def test_probabilities_of_the_operations() -> None:
    drawn = photometry(ViewSettings())
    tolerance = 5 * np.sqrt(0.25 / DRAWS)
    np.testing.assert_allclose((drawn["sigma"] > 0).mean(axis=0), [1.0, 0.1, 0.5], atol=tolerance)
    np.testing.assert_allclose((drawn["solarize"] < SOLARIZE_OFF).mean(axis=0), [0, 0.2, 0], atol=tolerance)
    np.testing.assert_allclose(drawn["gray"].mean(axis=0), 0.2, atol=tolerance)
    np.testing.assert_allclose((drawn["brightness"] != 1).mean(axis=0), 0.8, atol=tolerance)


def test_blur_probabilities_match_the_released_code() -> None:
    drawn = photometry(ViewSettings(blur=(0.0, 0.9, 0.5)))
    kinds = ("global_transfo1", "global_transfo2", "local_transfo")
    expected = [REFERENCE["op_fire_rate"][kind]["gaussian_blur"] for kind in kinds]
    np.testing.assert_allclose((drawn["sigma"] > 0).mean(axis=0), expected, atol=0.03)


def test_parameters_cover_their_ranges() -> None:
    drawn = photometry(ViewSettings())
    blurred = drawn["sigma"][drawn["sigma"] > 0]
    ranges = [(blurred, 0.1, 2.0), (drawn["brightness"], 0.6, 1.4), (drawn["contrast"], 0.6, 1.4)]
    ranges += [(drawn["saturation"], 0.8, 1.2), (drawn["hue"], -0.1, 0.1)]
    for values, low, high in ranges:
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high


def test_crops_of_a_frame_have_their_own_area_and_draws() -> None:
    uniform = np.random.default_rng(0).random((200, 5, CROP_DRAWS))
    height, width = np.arange(100, 300)[:, None], np.arange(300, 100, -1)[:, None]
    boxes = current_boxes(ViewSettings(), height, width, uniform)
    for crop, area in enumerate([(0.32, 1.0)] * 2 + [(0.05, 0.32)] * 3):
        alone = random_boxes(height[:, 0], width[:, 0], np.array(area), uniform[:, crop])
        for ours, theirs in zip(boxes, alone, strict=True):
            np.testing.assert_array_equal(ours[:, crop], theirs)
