from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.settings import UserError, parse_command
from tests.reference_data import read_json
from training.import_official import ImportCommand, import_official
from training.vit import VitSettings
from training.weights import load_backbone, read_card

RECORDED_WIDTH, WIDTH = 384, 128


def made_up_teacher() -> dict[str, Tensor]:
    """The published tensors of ViT-S/16, with a third of their width and 4 of their 12 blocks."""
    published = read_json("checkpoint_keys")["vits16"]["teacher_checkpoint"]["teacher"]
    generator = torch.Generator().manual_seed(0)

    def reduced(size: int) -> int:
        return size * WIDTH // RECORDED_WIDTH if size % RECORDED_WIDTH == 0 else min(size, 256)

    return {
        name: torch.randn([reduced(size) for size in shape], generator=generator) * 0.1
        for name, shape in published.items()
        if not name.startswith(tuple(f"backbone.blocks.{block}." for block in range(4, 12)))
    }


def test_a_published_teacher_becomes_a_portable_backbone(tmp_path: Path) -> None:
    teacher = made_up_teacher()
    source, out = tmp_path / "teacher_checkpoint.pth", tmp_path / "out.safetensors"
    torch.save({"teacher": teacher}, source)
    command = parse_command(ImportCommand, [str(source), str(out)])
    import_official(command.checkpoint, command.out)
    backbone = load_backbone(out)
    assert backbone.settings == VitSettings(width=WIDTH, depth=4, heads=2)
    state = backbone.state_dict()
    assert {f"backbone.{name}" for name in state} == {name for name in teacher if name.startswith("backbone.")}
    assert all(torch.equal(tensor, teacher[f"backbone.{name}"]) for name, tensor in state.items())
    assert read_card(out)["source"] == "teacher_checkpoint.pth"


class Harmful:
    """Any object that is not a tensor."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"student": {}}, "no entry `teacher`"),
        ({"teacher": {"dino_head.mlp.0.weight": torch.zeros(1)}}, "no tensors"),
        ({"teacher": {"backbone.cls_token": torch.zeros(1, 1, 64)}}, "not a ViT with register tokens"),
        ({"teacher": Harmful()}, "not a complete PyTorch file of plain tensors"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    source = tmp_path / "in.pth"
    torch.save(content, source)
    with pytest.raises(UserError, match=words):
        import_official(source, tmp_path / "out.safetensors")


def test_missing_torn_and_incomplete_files_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    with pytest.raises(UserError, match="cannot read the weights"):
        import_official(source, tmp_path / "out.safetensors")
    teacher = made_up_teacher()
    torch.save({"teacher": teacher}, source)
    source.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(UserError, match="not a complete PyTorch file"):
        import_official(source, tmp_path / "out.safetensors")
    source.write_bytes(b"")
    with pytest.raises(UserError, match="not a complete PyTorch file"):
        import_official(source, tmp_path / "out.safetensors")
    del teacher["backbone.blocks.2.ls1.gamma"]
    torch.save({"teacher": teacher}, source)
    with pytest.raises(UserError, match=r"blocks\.2\.ls1\.gamma is absent where 128 is expected"):
        import_official(source, tmp_path / "out.safetensors")
