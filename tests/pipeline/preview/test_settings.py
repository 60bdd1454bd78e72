import json
from pathlib import Path

import pytest

from pipeline.dataset import read_manifest
from pipeline.preview.settings import reader_settings
from pipeline.reader.settings import ReaderSettings
from pipeline.settings import UserError


def test_still_images_have_no_auxiliary_frames(image_dataset: Path) -> None:
    preset = Path(__file__).parents[3] / "configs/paper-vits16-in1k.yaml"
    settings = reader_settings(str(image_dataset), read_manifest(image_dataset), 0, preset)
    assert settings.sandwich.auxiliary == ()


def test_settings_come_from_a_preset_or_a_run(clip_dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(clip_dataset)
    assert reader_settings(str(clip_dataset), manifest, 4) == ReaderSettings(shards=clip_dataset, seed=4, prefetch=1)
    preset = Path(__file__).parents[3] / "configs/ablations.yaml:unaligned-time"
    settings = reader_settings(str(clip_dataset), manifest, 4, preset)
    assert (settings.views.auxiliary_crop, settings.sandwich.auxiliary) == ("current", ("future",))
    run = tmp_path / "config.json"
    run.write_text(json.dumps({"data": settings.model_dump(mode="json") | {"shards": "elsewhere"}, "train": {}}))
    assert reader_settings(str(clip_dataset), manifest, 4, run) == settings
    for wrong, message in (({"views": {"global_size": 3}}, r"data\.views\.global_size = 3"), (["a"], "no settings")):
        run.write_text(json.dumps({"data": wrong}))
        with pytest.raises(UserError, match=rf"--training .*config\.json.*{message}"):
            reader_settings(str(clip_dataset), manifest, 4, run)
