import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.settings import UserError, parse_command
from tests.training.recorded import TINY_MODEL, recorded, recorded_backbone, recorded_model
from training.export import ExportCommand, export
from training.vit import VitSettings, random_backbone
from training.weights import backbone_sha256, load_backbone, read_card, save_backbone

DATASETS = [{"dataset_hash": "abc", "weight": 1.0}, {"dataset_hash": "def", "weight": 0.5}]


def write_checkpoint(folder: Path, prefix: str = "") -> Path:
    checkpoint = folder / "run" / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    state = recorded_model().state_dict()
    save_file({prefix + name: tensor.contiguous() for name, tensor in state.items()}, checkpoint / "model.safetensors")
    data = {"shards": "/secret/place", "neighbours": "/secret/too", "mix": [{"shards": "/secret/more"}], "seed": 3}
    config: dict[str, Any] = {"model": TINY_MODEL.model_dump(mode="json"), "train": {"seed": 5}, "data": data}
    config |= {"preset": "paper-tiny", "datasets": DATASETS, "neighbours_sha256": None}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "state.json").write_text(json.dumps({"step": 7}))
    lines = [{"step": step, "loss/total": 9.0 - step, "schedule/lr": 1} for step in (5, 7, 9)]
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
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
    assert (card["part"], card["steps"], card["preset"], card["datasets"]) == (part, 7, "paper-tiny", DATASETS)
    assert card["config"]["train"] == {"seed": 5}
    assert card["config"]["data"] == {"seed": 3}
    assert card["logged"] == {"step": 7, "loss/total": 2.0}
    assert card["weights_sha256"] == backbone_sha256(load_backbone(out))
    assert b"secret" not in out.read_bytes()


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
