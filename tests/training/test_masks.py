import pytest
import torch

from tests.training.recorded import recorded, recorded_views
from training.masks import locate_masked_patches

CPU = torch.device("cpu")


@pytest.mark.parametrize("masked", [0.0, 0.4, 1.0])
def test_indices_select_what_the_masks_select(masked: float) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 9, generator=generator) < masked
    masks[2] = False
    tokens = torch.rand(6, 9, 4, generator=generator)
    located = locate_masked_patches(masks, CPU)
    assert torch.equal(located.table, masks)
    assert torch.equal(tokens[located.crops], tokens[masks.any(dim=1)])
    assert torch.equal(tokens.flatten(0, 1)[located.patches], tokens[masks])
    assert torch.equal(tokens[located.crops].flatten(0, 1)[located.patches_of_crops], tokens[masks])


def test_weights_are_the_recorded_ones_and_sum_to_the_number_of_masked_crops() -> None:
    masks = recorded_views().masks
    weights = locate_masked_patches(masks, CPU).weights
    assert torch.equal(weights, recorded("train_step")["in/masks_weight"])
    assert weights.sum().item() == pytest.approx(masks.any(1).sum().item())
