import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.sampling.masks import MaskSettings, add_blocks, draw_masks, mask_sizes
from tests.reference_data import read_json

REFERENCE = read_json("mask_stats")
CROPS, PATCHES, GRID, STEPS = 128, 196, (14, 14), 400


@pytest.fixture(scope="module")
def sizes() -> np.ndarray:
    return np.stack([mask_sizes(MaskSettings(), 0, step, CROPS, PATCHES) for step in range(STEPS)])


@pytest.fixture(scope="module")
def masks(sizes: np.ndarray) -> np.ndarray:
    crops = np.arange(CROPS)
    return np.concatenate([draw_masks(sizes[step], crops, 0, step, GRID) for step in range(100)])


def test_half_of_the_crops_cover_the_ratios_in_equal_intervals(sizes: np.ndarray) -> None:
    ordered = np.sort(sizes, axis=1)
    assert (ordered[:, :64] == 0).all()
    assert (ordered[:, 64:].min(axis=0) >= REFERENCE["per_slot_requested_min"]).all()
    assert (ordered[:, 64:].max(axis=0) <= REFERENCE["per_slot_requested_max"]).all()
    np.testing.assert_allclose(ordered[:, 64:].mean(axis=0), REFERENCE["per_slot_requested_mean"], atol=0.2)


def test_total_matches_the_released_code(sizes: np.ndarray) -> None:
    expected = REFERENCE["total_masked_per_batch"]
    # both means, over 400 batches each, have a standard error of 0.18
    assert abs(sizes.sum(axis=1).mean() - expected["mean"]) < 5 * 0.18 * np.sqrt(2)
    assert abs(sizes.sum(axis=1).std() - expected["std"]) < 0.6


def test_masked_crops_are_shuffled(sizes: np.ndarray) -> None:
    share = (sizes > 0).mean(axis=0)
    assert abs(share - 0.5).max() < 5 * np.sqrt(0.25 / STEPS)
    assert np.corrcoef(sizes[:, 0], sizes[:, 1])[0, 1] < 0.2


def test_every_mask_has_exactly_its_size(sizes: np.ndarray, masks: np.ndarray) -> None:
    assert (masks.sum(axis=1) == sizes[:100].ravel()).all()


def test_position_frequencies_match_the_released_code(masks: np.ndarray) -> None:
    masked = masks[masks.any(axis=1)]
    expected = np.array(REFERENCE["position_frequency_given_masked_image"])
    # 6,400 masked images against 25,600 recorded ones: standard error of a difference at most 0.007
    assert abs(masked.mean(axis=0).reshape(GRID) - expected).max() < 5 * 0.007


def test_masks_do_not_depend_on_the_other_crops_drawn(sizes: np.ndarray) -> None:
    whole = draw_masks(sizes[3], np.arange(CROPS), 0, 3, GRID)
    part = np.array([7, 100, 20])
    assert (draw_masks(sizes[3][part], part, 0, 3, GRID) == whole[part]).all()


def test_a_mask_is_made_of_blocks() -> None:
    # area 16, aspect 1, a quarter from the top, three quarters from the left
    mask, missing = add_blocks(0, 16, GRID, [(0.999, 1.0, 0.25, 0.75)])
    rows, columns = np.divmod([bit for bit in range(PATCHES) if mask >> bit & 1], GRID[1])
    assert missing == 0
    assert len(rows) == 16
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 8, 11)


def test_blocks_overlap_but_never_mask_too_much() -> None:
    block = (0.999, 1.0, 0.25, 0.75)
    mask, _ = add_blocks(0, 16, GRID, [block])
    assert add_blocks(mask, 9, GRID, [block]) == (mask, 9), "adds nothing"
    shifted = add_blocks(mask, 9, GRID, [(0.999, 1.0, 0.25, 0.85)])  # 3 x 3, a third of it to the right
    assert shifted[1] == 6
    assert add_blocks(mask, 9, GRID, [(0.999, 1.0, 0.0, 0.0)])[1] == 0


def test_number_of_blocks_matches_the_released_code() -> None:
    counts = []
    for crop, size in enumerate(np.linspace(20, 97, 1500).astype(int)):
        mask, missing, blocks = 0, int(size), 0
        uniform = np.random.default_rng(crop).random((200, 4))
        for area, aspect, row, column in uniform:
            before = missing
            root = float(np.exp((aspect - 0.5) * np.log(1 / 0.3)))
            mask, missing = add_blocks(mask, missing, GRID, [(area, root, row, column)])
            blocks += missing < before
        counts.append(blocks)
    # 1,500 masks: standard error 0.05, so an error of a tenth in the bounds of the areas is found
    assert abs(np.mean(counts) - REFERENCE["mean_blocks"]) < 0.25


def test_probability_zero_masks_nothing() -> None:
    assert (mask_sizes(MaskSettings(probability=0), 0, 0, 6, 16) == 0).all()
    assert not draw_masks(np.zeros(6, np.int64), np.arange(6), 0, 0, (4, 4)).any()


@pytest.mark.parametrize("ratio", [(0.5, 0.1), (-0.1, 0.5), (0.1, 1.5)])
def test_ratios_must_be_shares(ratio: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="two rising shares"):
        MaskSettings(ratio=ratio)


def test_almost_everything_can_be_masked() -> None:
    assert draw_masks(np.array([196, 190]), np.array([0, 1]), 0, 0, GRID).sum(axis=1).tolist() == [196, 190]
