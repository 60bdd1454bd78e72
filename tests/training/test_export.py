import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.settings import UserError, parse_command
from tests.training.recorded import recorded, recorded_backbone, recorded_model, seal, write_checkpoint
from training.backbone.transformers_format import save_transformers
from training.backbone.vit import VitSettings, random_backbone
from training.backbone.weights import backbone_sha256, load_backbone, read_card, save_backbone
from training.export import ExportCommand, export
from training.provenance import provenance

SMALL = VitSettings(width=8, depth=1, heads=1, image_size=32)
DATASETS = [{"dataset_hash": "abc", "weight": 1.0}, {"dataset_hash": "def", "weight": 0.5}]


def checkpoint_of_a_run(folder: Path, prefix: str = "") -> Path:
    data = {"shards": "/secret/place", "neighbours": "/secret/too", "mix": [{"shards": "/secret/more"}], "seed": 3}
    config: dict[str, Any] = {"train": {"seed": 5}, "data": data}
    config |= {"preset": "paper-tiny", "datasets": DATASETS, "neighbours_sha256": None}
    checkpoint = folder / "run" / "checkpoints" / "step-00000007"
    write_checkpoint(checkpoint, recorded_model(), config, prefix=prefix)
    lines = [{"step": step, "loss/total": 9.0 - step, "schedule/lr": 1} for step in (5, 7, 9)]
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return checkpoint


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("part", ["teacher", "student"])
def test_an_exported_backbone_gives_the_features_of_the_checkpoint(tmp_path: Path, prefix: str, part: str) -> None:
    out = tmp_path / "out.safetensors"
    arguments = [str(checkpoint_of_a_run(tmp_path, prefix)), str(out), "--part", part]
    command = parse_command(ExportCommand, arguments)
    export(command.checkpoint, command.out, command.part)
    image = recorded("backbone_eval")["48x80/image"]
    with torch.no_grad():
        expected = recorded_backbone(f"{part}.backbone.")(image).patches
        assert torch.equal(load_backbone(out)(image).patches, expected)
    written = read_card(out)
    assert (written["part"], written["steps"], written["preset"]) == (part, 7, "paper-tiny")
    assert written["datasets"] == DATASETS
    assert written["config"]["train"] == {"seed": 5}
    assert written["config"]["data"] == {"seed": 3}
    assert written["logged"] == {"step": 7, "loss/total": 2.0}
    assert written["weights_sha256"] == backbone_sha256(load_backbone(out))
    assert b"secret" not in out.read_bytes()


def test_a_checkpoint_that_does_not_describe_its_backbone_is_refused(tmp_path: Path) -> None:
    checkpoint, out = checkpoint_of_a_run(tmp_path), tmp_path / "out.safetensors"
    config = (checkpoint / "config.json").read_text()
    for content, message in (
        (config.replace('"width": 64', '"width": 128'), "does not match its architecture"),
        ("{}", r"does not describe model\.backbone"),
        ("{", r"is damaged .*config\.json is not valid JSON"),
    ):
        (checkpoint / "config.json").write_text(content)
        seal(checkpoint)
        with pytest.raises(UserError, match=message):
            export(checkpoint, out, "teacher")
    with pytest.raises(UserError, match="is not a training checkpoint"):
        export(tmp_path, out, "teacher")
    assert not out.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("how", ["torn", "changed", "absent"])
def test_only_what_a_run_has_written_is_exported(tmp_path: Path, name: str, how: str) -> None:
    checkpoint, out = checkpoint_of_a_run(tmp_path), tmp_path / "out.safetensors"
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if how != "absent":
        (checkpoint / name).write_bytes(content[:-4] if how == "torn" else content[:-4] + b"    ")
    with pytest.raises(UserError, match=rf"step-00000007 is damaged \(.*{name}"):
        export(checkpoint, out, "teacher")
    assert not out.exists()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    model = recorded_model()
    model.student.backbone.norm.bias.data[3] = value
    checkpoint = write_checkpoint(tmp_path / "step-00000007", model, {})
    with pytest.raises(UserError, match=r"NaN or infinity in student\.backbone\.norm\.bias: "):
        export(checkpoint, tmp_path / "out.safetensors", "teacher")


FOREIGN = {"notes.txt": b"mine", "pytorch_model.bin": b"weights", "model.safetensors": b"fine-tuned"}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("exported_before", [False, True])
@pytest.mark.parametrize("by_link", [False, True])
def test_folders_with_other_files_are_not_replaced(
    tmp_path: Path, name: str, exported_before: bool, by_link: bool
) -> None:
    backbone = random_backbone(SMALL, seed=0)
    folder = out = tmp_path / "weights"
    if by_link:
        out = tmp_path / "link"
        out.symlink_to(folder)
    if exported_before:
        save_transformers(out, backbone, {"steps": 1})
        save_transformers(out, backbone, {"steps": 2})  # its own is replaced, and where a link leads to, too
        assert json.loads((folder / "tcore_card.json").read_text())["steps"] == 2
    else:
        folder.mkdir()
        save_transformers(out, backbone, {})  # an empty one is filled
        for file in folder.iterdir():
            file.unlink()
    (folder / name).write_bytes(FOREIGN[name])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="give another name, or move that folder away"):
        save_transformers(out, backbone, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert out.is_symlink() == by_link
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_checkpoint_is_not_replaced_by_its_own_export(tmp_path: Path) -> None:
    checkpoint = checkpoint_of_a_run(tmp_path)
    before = sorted(path.name for path in checkpoint.iterdir())
    with pytest.raises(UserError, match=r"holds state\.json, which this program did not write"):
        export(checkpoint, checkpoint, "teacher", "transformers")
    with pytest.raises(UserError, match=r"model\.safetensors exists and was not written by this program"):
        export(checkpoint, checkpoint / "model.safetensors", "teacher")
    with pytest.raises(UserError, match="is a folder: give the name of a file"):
        export(checkpoint, checkpoint, "teacher")
    assert sorted(path.name for path in checkpoint.iterdir()) == before


@pytest.mark.parametrize("by_link", [False, True])
@pytest.mark.parametrize("content", [b"my notes", b"PK\x03\x04 a checkpoint", None])
def test_other_files_are_not_replaced(tmp_path: Path, content: bytes | None, by_link: bool) -> None:
    backbone = random_backbone(SMALL, seed=0)
    file = out = tmp_path / "notes.txt"
    if content is None:
        save_file({"weight": torch.zeros(2)}, file)  # safetensors, but of another program
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    if by_link:
        out = tmp_path / "link"
        out.symlink_to(file)
    with pytest.raises(UserError, match="exists and was not written by this program: give another"):
        save_backbone(out, backbone, {})
    with pytest.raises(UserError, match="is a file: give the name of a folder"):
        save_transformers(out, backbone, {})
    assert file.read_bytes() == before
    file.write_bytes(b"")
    for steps in (1, 2):  # an empty file and its own are replaced
        save_backbone(out, backbone, {"steps": steps})
        assert read_card(file)["steps"] == steps
    assert out.is_symlink() == by_link


def test_a_checkpoint_in_the_root_of_a_file_system_has_no_run_around_it() -> None:
    assert provenance({}, Path("/"), 7)["logged"] == {}


def test_run_folder_and_unwritable_output_are_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is the folder of a run: give one of"):
        export(tmp_path / "run", tmp_path / "out.safetensors", "teacher")
    (tmp_path / "file").touch()
    backbone = random_backbone(SMALL, seed=0)
    with pytest.raises(UserError, match="cannot write the weights"):
        save_backbone(tmp_path / "file" / "out.safetensors", backbone, {})
