import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.settings import UserError
from tests.training.recorded import TINY_VIT, recorded, recorded_backbone
from training.backbone.vit import random_backbone
from training.backbone.weights import backbone_sha256, load_backbone, read_card, save_backbone


def test_round_trip_gives_the_same_features(tmp_path: Path) -> None:
    backbone = recorded_backbone("teacher.backbone.")
    path = tmp_path / "weights" / "teacher.safetensors"
    save_backbone(path, backbone, {"part": "teacher", "steps": 7})
    loaded = load_backbone(path)
    image = recorded("backbone_eval")["48x80/image"]
    with torch.no_grad():
        assert torch.equal(loaded(image).patches, backbone(image).patches)
    assert not loaded.training
    assert loaded.settings == TINY_VIT
    assert read_card(path) == {"architecture": TINY_VIT.model_dump(), "part": "teacher", "steps": 7}
    assert backbone_sha256(loaded) == backbone_sha256(backbone)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_any_safetensors_reader_sees_the_official_names(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_backbone(path, recorded_backbone("teacher.backbone."), {})
    official = {k for k in recorded("train_step_state") if k.startswith("teacher.backbone.")}
    assert {f"teacher.backbone.{name}" for name in load_file(path)} == official


def test_the_hash_follows_the_values_only() -> None:
    first, second = random_backbone(TINY_VIT, 0), random_backbone(TINY_VIT, 0)
    assert backbone_sha256(first) == backbone_sha256(second)
    second.norm.bias.data[5] += 1e-3
    assert backbone_sha256(first) != backbone_sha256(second)


def test_a_missing_a_torn_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    with pytest.raises(UserError, match="cannot read the weights"):
        load_backbone(path)
    save_backbone(path, random_backbone(TINY_VIT, 0), {})
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode, "others may read it"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_backbone(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="without the description of a backbone"):
        load_backbone(path)


@pytest.mark.parametrize("card", ["{", "[1, 2]", "3", '{"architecture": 5}', "[" * 20_000])
def test_a_card_that_describes_nothing_is_named(tmp_path: Path, card: str) -> None:
    path = tmp_path / "teacher.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"tcore_card": card})
    with pytest.raises(UserError, match=r"Write one with|without the description of a backbone"):
        load_backbone(path)
    with pytest.raises(UserError, match="was not written by this program"):
        save_backbone(path, random_backbone(TINY_VIT, 0), {})


def test_weights_other_than_those_described_are_refused(tmp_path: Path) -> None:
    path, backbone = tmp_path / "teacher.safetensors", random_backbone(TINY_VIT, 0)
    save_backbone(path, backbone, {"weights_sha256": backbone_sha256(backbone)})
    load_backbone(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="are not those that it describes: copy them again"):
        load_backbone(path)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    tensors = dict(random_backbone(TINY_VIT, 0).state_dict())
    tensors["norm.bias"] = torch.zeros(3)
    del tensors["cls_token"]
    tensors["mask_token"] = tensors["mask_token"].int()
    save_file(tensors, path, metadata={"tcore_card": json.dumps({"architecture": TINY_VIT.model_dump()})})
    with pytest.raises(UserError, match=r"cls_token is absent .*; mask_token is absent .*; norm\.bias is 3 where 64"):
        load_backbone(path)
