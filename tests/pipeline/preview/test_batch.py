import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dataset import read_manifest
from pipeline.preview.batch import batch_settings, draw_batch, mask_pixels, view_pixels
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD, ViewSettings
from pipeline.settings import UserError


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


def test_still_images_have_no_auxiliary_frames(image_dataset: Path) -> None:
    preset = Path(__file__).parents[3] / "configs/paper-vits16-in1k.yaml"
    settings = batch_settings(str(image_dataset), read_manifest(image_dataset), 0, preset)
    assert settings.sandwich.auxiliary == ()


def test_settings_come_from_a_preset_or_a_run(clip_dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(clip_dataset)
    assert batch_settings(str(clip_dataset), manifest, 4, None) == ReaderSettings(
        shards=clip_dataset, seed=4, prefetch=1
    )
    preset = Path(__file__).parents[3] / "configs/ablations.yaml:unaligned-time"
    settings = batch_settings(str(clip_dataset), manifest, 4, preset)
    assert (settings.views.auxiliary_crop, settings.sandwich.auxiliary) == ("current", ("future",))
    run = tmp_path / "config.json"
    run.write_text(json.dumps({"data": settings.model_dump(mode="json") | {"shards": "elsewhere"}, "train": {}}))
    assert batch_settings(str(clip_dataset), manifest, 4, run) == settings
    for wrong, message in (({"views": {"global_size": 3}}, r"data\.views\.global_size = 3"), (["a"], "no settings")):
        run.write_text(json.dumps({"data": wrong}))
        with pytest.raises(UserError, match=rf"--training .*config\.json.*{message}"):
            batch_settings(str(clip_dataset), manifest, 4, run)
