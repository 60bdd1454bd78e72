from pathlib import Path

import numpy as np
import torch

from pipeline.preview.batch import draw_batch, mask_pixels, view_pixels
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD, ViewSettings


def test_pixels_of_a_view_are_those_before_normalization() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    normalized = (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    view = torch.from_numpy(normalized.transpose(2, 0, 1)).float()
    np.testing.assert_array_equal(view_pixels(view), pixels)


def test_only_masked_patches_are_faded() -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    shown = mask_pixels(pixels, np.array([False, True, False, False]))
    assert (shown[:4, 4:] > 220).all()
    assert (shown[4:] == 100).all()
    assert (shown[:4, :4] == 100).all()


def test_the_same_settings_give_the_same_picture(clip_dataset: Path) -> None:
    views = ViewSettings(global_size=64, local_size=32, local_crops=3)
    pictures = [draw_batch(ReaderSettings(shards=clip_dataset, views=views, seed=seed), 2) for seed in (1, 1, 2)]
    assert pictures[0] == pictures[1] != pictures[2]
