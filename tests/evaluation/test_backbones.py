from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluation.backbones import Extractor, open_extractor
from pipeline.settings import UserError
from training.vit import VitSettings
from training.weights import random_backbone, save_backbone

CPU = torch.device("cpu")
TINY = VitSettings(width=32, depth=1, heads=2, image_size=32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_backbone(tmp_path / "weights.safetensors", random_backbone(TINY, seed=7), card={})
    return tmp_path / "weights.safetensors"


def features(extractor: Extractor, images: Tensor, batch_size: int = 2) -> Tensor:
    return torch.stack(list(extractor.stream(images, batch_size)))


def test_features_are_the_patch_tokens_of_the_saved_backbone_in_any_batch_size(weights: Path) -> None:
    images = torch.randn(5, 3, 48, 80)
    extractor = open_extractor(weights, device=CPU, random_seed=None)
    with torch.no_grad():
        expected = random_backbone(TINY, seed=7)(images).patches.view(5, 3, 5, 32)
    for batch_size in (1, 2, 8):
        torch.testing.assert_close(features(extractor, images, batch_size), expected, rtol=1e-4, atol=1e-5)


def test_random_parameters_depend_on_the_seed_and_not_on_the_weights(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_backbone(other, random_backbone(TINY, seed=8), card={})
    images = torch.randn(1, 3, 32, 32)
    first, same, different = (
        features(open_extractor(file, device=CPU, random_seed=seed), images)
        for file, seed in ((weights, 0), (other, 0), (weights, 2))
    )
    torch.testing.assert_close(first, same)
    assert not torch.allclose(first, different)


def test_no_more_frames_are_read_than_pass_at_once() -> None:
    read: list[int] = []

    def images() -> Iterator[Tensor]:
        for number in range(7):
            read.append(number)
            yield torch.zeros(3, 16, 16)

    extractor = Extractor(lambda batch: batch.flatten(2).transpose(1, 2)[:, :1], 16, CPU)
    stream = extractor.stream(images(), 3)
    next(stream)
    assert len(read) == 3
    assert len(list(stream)) == 6


@pytest.mark.parametrize("size", [(0, 16), (16, 17), (-16, 16)])
def test_sizes_that_do_not_divide_into_patches_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="multiples of the patch size 16"):
        Extractor(lambda images: images, 16, CPU).grid(size)


def test_broken_weights_are_refused_by_what_they_give() -> None:
    extractor = Extractor(lambda images: images.flatten(2).transpose(1, 2)[:, :1] * torch.nan, 16, CPU)
    with pytest.raises(UserError, match="NaN"):
        features(extractor, torch.zeros(1, 3, 16, 16))
