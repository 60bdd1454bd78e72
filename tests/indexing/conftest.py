"""Weights of a tiny backbone."""

from pathlib import Path

import pytest

SIZE = 64


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.backbone.vit import VitSettings, random_backbone
    from training.backbone.weights import save_backbone

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    settings = VitSettings(width=32, depth=2, heads=2, image_size=SIZE, layer_scale=1.0)
    save_backbone(path, random_backbone(settings, seed=1), {})
    return path
