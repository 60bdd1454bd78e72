"""The example of a function as weights runs."""

from pathlib import Path

import pytest
import torch
import transformers

from evaluation.backbones import open_checkpoint
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from tests.docs.documents import DOCS, fenced


@torch.no_grad()
def test_the_network_of_the_example_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipVisionConfig(**sizes, image_size=32, patch_size=16)
    model = transformers.SiglipVisionModel(config).eval()
    model.save_pretrained(tmp_path / "siglip-base-patch16")
    [code] = fenced(DOCS / "weights.md", "python")
    (tmp_path / "networks.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    opened = open_checkpoint(Path("networks:siglip"), "siglip", device=torch.device("cpu"))
    pixels = torch.rand(1, 3, 32, 48)
    expected = model(2 * pixels - 1, interpolate_pos_encoding=True).last_hidden_state
    images = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    [features] = opened.extractor.stream(images, 1)
    torch.testing.assert_close(features.flatten(0, 1), expected[0], rtol=1e-4, atol=1e-5)
