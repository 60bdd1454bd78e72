from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.files import sha256_file
from pipeline.settings import UserError, parse_command
from tests.reference_data import read_json
from tests.training.backbone.made import Plan, vit
from training.backbone.foreign import read_backbone
from training.backbone.vit import VitSettings
from training.backbone.weights import load_backbone, read_card
from training.import_official import ImportCommand, import_official, main

WIDTH = 384


def made_up_teacher() -> dict[str, Tensor]:
    """The published tensors of ViT-S/16, with 4 of their 12 blocks and a small head."""
    published = read_json("checkpoint_keys")["vits16"]["teacher_checkpoint"]["teacher"]
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn([size if size % WIDTH == 0 else min(size, 256) for size in shape], generator=generator) * 0.1
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
    assert backbone.settings == VitSettings(width=WIDTH, depth=4, heads=6)
    state = backbone.state_dict()
    assert {f"backbone.{name}" for name in state} == {name for name in teacher if name.startswith("backbone.")}
    assert all(torch.equal(tensor, teacher[f"backbone.{name}"]) for name, tensor in state.items())
    assert read_card(out)["source"] == "teacher_checkpoint.pth"


def test_options_of_weights_of_another_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "dino.pth", tmp_path / "dino.safetensors"
    torch.save(vit(Plan()), source)
    words = f"{source} {out} --backbone.family dino --backbone.heads=3 --backbone.mean 0.5,0.5,0.5 --backbone.std 1,1,1"
    main(parse_command(ImportCommand, words.split()))
    assert (
        "initial value: blocks.*.ls1.gamma = 1 (2), blocks.*.ls2.gamma = 1 (2), mask_token = 0"
        in capsys.readouterr().out
    )
    card = read_card(out)
    assert (card["family"], card["source"], card["source_sha256"]) == ("dino", "dino.pth", sha256_file(source))
    assert card["normalization"] == {"mean": [0.5] * 3, "std": [1.0] * 3, "origin": "options"}
    import_official(out, tmp_path / "folder", "transformers")  # what it was first stays
    for path in (out, tmp_path / "folder"):
        again = read_backbone(path).record()
        assert {key: again[key] for key in card} == card
    with pytest.raises(UserError, match=r"backbone\.std .* three numbers, for red, green and blue"):
        parse_command(ImportCommand, [*words.split()[:-1], "1,2"])


class Harmful:
    """Any object that is not a tensor."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"student": {}}, "holds no named tensors"),
        (
            {"teacher": {"dino_head.mlp.0.weight": torch.zeros(1)}},
            r"no tensor patch_embed\.proj\.weight, but teacher\.dino",
        ),
        ({"teacher": {"backbone.patch_embed.proj.weight": torch.zeros(64, 3, 16, 16)}}, r"has no blocks\.0"),
        ({"teacher": {1: torch.zeros(1)}}, "holds no named tensors"),
        ({"teacher": Harmful()}, r"holds .*Harmful, an object that can run code when it is loaded, and only tensors"),
        ({"teacher": {}, "args": Namespace(lr=1)}, r"holds the options of a training program \(argparse\.Namespace\)"),
        ({"teacher": {}, "loss": np.float64(1)}, r"holds numpy\.\S+scalar, an object that can run code"),
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
    for content, words in (
        (source.read_bytes()[:5000], "is cut off or damaged: copy or download it again"),
        (b"", "is empty: copy or download it again"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x93NUMPY\x01\x00", "is not a PyTorch file of plain tensors"),
    ):
        source.write_bytes(content)
        with pytest.raises(UserError, match=words) as refused:
            import_official(source, tmp_path / "out.safetensors")
        assert "weights_only" not in str(refused.value), "never advise to run what is in a file"
    del teacher["backbone.blocks.2.ls1.gamma"]
    torch.save({"teacher": teacher}, source)
    torch.save({"teacher": {**teacher, "backbone.blocks.2.ls1.gamma": torch.full((WIDTH,), torch.inf)}}, source)
    with pytest.raises(UserError, match=r"NaN or infinity in blocks\.2\.ls1\.gamma"):
        import_official(source, tmp_path / "out.safetensors")
    torch.save({"teacher": teacher}, source)
    with pytest.raises(UserError, match=r"blocks\.2\.ls1\.gamma is absent where 384 is expected"):
        import_official(source, tmp_path / "out.safetensors")


def test_heads_of_a_width_that_was_not_published_are_asked_for(tmp_path: Path) -> None:
    state = vit(Plan(scales=True, registers=4))
    torch.save({"teacher": {f"backbone.{name}": tensor for name, tensor in state.items()}}, tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"does not say how many attention heads its blocks of width \d+ have"):
        import_official(tmp_path / "own.pth", tmp_path / "out.safetensors")
