"""The folder for timm against a ViT that is not ours and follows timm's rules: CLS and registers have no position."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.settings import UserError
from tests.training.backbone.test_transformers_format import tokens_of
from tests.training.independent_vit import features
from tests.training.recorded import assert_near, recorded_backbone
from training.backbone.timm_format import save_timm
from training.backbone.vit import VitSettings, random_backbone


def test_tokens_are_ours_where_only_patches_have_positions(tmp_path: Path) -> None:
    backbone, images = recorded_backbone("teacher.backbone."), torch.randn(2, 3, 64, 64)
    save_timm(tmp_path / "timm", backbone, {"part": "teacher"})
    tensors = load_file(tmp_path / "timm" / "model.safetensors")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    sizes = config["model_args"]
    assert config["num_classes"] == 0
    assert sizes["no_embed_class"]
    assert tensors["pos_embed"].shape[1] == (sizes["img_size"] // sizes["patch_size"]) ** 2
    tensors["pos_embed"] = torch.cat([torch.zeros_like(tensors["cls_token"]), tensors["pos_embed"]], 1)
    tensors["register_tokens"] = tensors.pop("reg_token")
    architecture = {"patch_size": sizes["patch_size"], "depth": sizes["depth"], "heads": sizes["num_heads"]}
    metadata = {"tcore_card": json.dumps({"architecture": architecture})}
    save_file(tensors, tmp_path / "independent.safetensors", metadata)
    assert_near(features(tmp_path / "independent.safetensors", images), tokens_of(backbone, images), 1e-5)


def test_an_unchanged_folder_is_replaced_and_another_one_is_not(tmp_path: Path) -> None:
    backbone = recorded_backbone("teacher.backbone.")
    for number in range(2):
        save_timm(tmp_path / "timm", backbone, {"steps": number}, "# A card\n")
    assert json.loads((tmp_path / "timm" / "tcore_card.json").read_text())["steps"] == 1
    (tmp_path / "timm" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="give another name"):
        save_timm(tmp_path / "timm", backbone, {})


def test_a_backbone_that_timm_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs norm_eps = 1e-06; this backbone has norm_eps = 1e-12: choose --format"):
        save_timm(tmp_path / "timm", random_backbone(VitSettings(width=32, depth=1, heads=2, norm_eps=1e-12), 0), {})
