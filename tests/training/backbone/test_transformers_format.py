"""Exported weights give the same features in code that is not ours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from pipeline.settings import UserError
from tests.training.independent_vit import features
from tests.training.recorded import assert_near, recorded_backbone
from training.backbone.transformers_format import save_transformers, transformers_tensors
from training.backbone.vit import VisionTransformer, VitSettings, random_backbone
from training.backbone.weights import load_backbone, save_backbone
from training.import_official import import_official


def tokens_of(backbone: VisionTransformer, images: Tensor) -> Tensor:
    with torch.no_grad():
        tokens = backbone(images)
    return torch.cat([tokens.cls[:, None], tokens.registers, tokens.patches], dim=1)


def test_a_vit_of_thirty_lines_reads_the_portable_file(tmp_path: Path) -> None:
    path, images = tmp_path / "teacher.safetensors", torch.randn(2, 3, 64, 64)
    save_backbone(path, recorded_backbone("teacher.backbone."), {})
    assert_near(features(path, images), tokens_of(load_backbone(path), images), 1e-5)


@pytest.mark.parametrize("size", [(64, 64), (96, 96)])
def test_transformers_loads_the_folder_without_any_code_of_ours(tmp_path: Path, size: tuple[int, int]) -> None:
    backbone, images = recorded_backbone("teacher.backbone."), torch.randn(2, 3, *size)
    save_transformers(tmp_path / "weights", backbone, {"part": "teacher"})
    model, report = transformers.Dinov2WithRegistersModel.from_pretrained(
        tmp_path / "weights", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        result = model.eval()(images).last_hidden_state
    assert_near(result, tokens_of(backbone, images), 1e-5)
    assert json.loads((tmp_path / "weights" / "tcore_card.json").read_text())["part"] == "teacher"


def test_its_image_processor_gives_normalized_images_of_the_native_size(tmp_path: Path) -> None:
    backbone = recorded_backbone("teacher.backbone.")
    side = backbone.settings.image_size
    save_transformers(tmp_path / "weights", backbone, {})
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "weights")
    pixels = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), (picture / 255 - mean) / std, atol=1e-5)
    wide = processor(Image.fromarray(np.repeat(picture, 2, 1)), return_tensors="pt")["pixel_values"]
    assert wide.shape == (1, 3, side, side)


def test_every_tensor_of_the_authors_weights_is_mapped(tmp_path: Path) -> None:
    from tests.training.test_import_official import made_up_teacher

    torch.save({"teacher": made_up_teacher()}, tmp_path / "teacher_checkpoint.pth")
    import_official(tmp_path / "teacher_checkpoint.pth", tmp_path / "hf", "transformers")
    import_official(tmp_path / "teacher_checkpoint.pth", tmp_path / "ours.safetensors")
    ours = load_backbone(tmp_path / "ours.safetensors")
    state = ours.state_dict()
    theirs = transformers_tensors(state, ours.settings)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in state.values())
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tcore_card.json",
    }


def test_backbones_that_transformers_does_not_support_are_refused(tmp_path: Path) -> None:
    settings = VitSettings(width=8, depth=1, heads=1, image_size=32, mlp_ratio=2.5)
    with pytest.raises(UserError, match=r"an integer mlp_ratio, not 2\.5"):
        save_transformers(tmp_path / "weights", random_backbone(settings, 0), {})
    settings = VitSettings(width=8, depth=1, heads=1, image_size=32, class_token=False)
    with pytest.raises(UserError, match="this backbone has no CLS token"):
        save_transformers(tmp_path / "weights", random_backbone(settings, 0), {})


def test_a_folder_without_registers_has_all_that_transformers_expects(tmp_path: Path) -> None:
    backbone = random_backbone(VitSettings(width=8, depth=1, heads=1, image_size=32, registers=0), 0)
    save_transformers(tmp_path / "weights", backbone, {})
    model, report = transformers.AutoModel.from_pretrained(tmp_path / "weights", output_loading_info=True)
    assert not any(report.values())
    assert_near(model(images := torch.randn(1, 3, 48, 32)).last_hidden_state, tokens_of(backbone, images), 1e-5)
