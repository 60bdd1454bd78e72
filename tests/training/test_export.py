import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.settings import UserError, parse_command
from tests.training.recorded import TINY_MODEL, recorded, recorded_backbone, recorded_model
from training.export import ExportCommand, export
from training.vit import VitSettings, random_backbone
from training.weights import load_backbone, read_card, save_backbone


def write_checkpoint(folder: Path, prefix: str = "") -> Path:
    checkpoint = folder / "step-00000007"
    checkpoint.mkdir()
    state = recorded_model().state_dict()
    save_file({prefix + name: tensor.contiguous() for name, tensor in state.items()}, checkpoint / "model.safetensors")
    config = {"model": TINY_MODEL.model_dump(mode="json"), "train": {"seed": 5}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    return checkpoint


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("part", ["teacher", "student"])
def test_an_exported_backbone_gives_the_features_of_the_checkpoint(tmp_path: Path, prefix: str, part: str) -> None:
    out = tmp_path / "out.safetensors"
    arguments = [str(write_checkpoint(tmp_path, prefix)), str(out), "--part", part]
    command = parse_command(ExportCommand, arguments)
    export(command.checkpoint, command.out, command.part)
    image = recorded("backbone_eval")["48x80/image"]
    with torch.no_grad():
        expected = recorded_backbone(f"{part}.backbone.")(image).patches
        assert torch.equal(load_backbone(out)(image).patches, expected)
    card = read_card(out)
    assert (card["part"], card["checkpoint"], card["config"]["train"]) == (part, "step-00000007", {"seed": 5})


def test_an_incomplete_checkpoint_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    checkpoint, out = write_checkpoint(tmp_path), tmp_path / "out.safetensors"
    config = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(config.replace('"width": 64', '"width": 128'))
    with pytest.raises(UserError, match="does not fit its architecture"):
        export(checkpoint, out, "teacher")
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"does not describe model\.backbone"):
        export(checkpoint, out, "teacher")
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        export(checkpoint, out, "teacher")
    (checkpoint / "config.json").write_text(config)
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot read the weights"):
        export(checkpoint, out, "teacher")
    (checkpoint / "config.json").unlink()
    with pytest.raises(UserError, match="is no training checkpoint"):
        export(checkpoint, out, "teacher")
    assert not out.exists()


def test_run_folder_and_unwritable_output_are_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is the folder of a run: give one of"):
        export(tmp_path / "run", tmp_path / "out.safetensors", "teacher")
    (tmp_path / "file").touch()
    backbone = random_backbone(VitSettings(width=8, depth=1, heads=1, image_size=32), seed=0)
    with pytest.raises(UserError, match="cannot write the weights"):
        save_backbone(tmp_path / "file" / "out.safetensors", backbone, {})
