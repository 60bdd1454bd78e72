"""Backbones of every family, made by code: their tokens are those of an independent ViT or of `transformers`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.training.backbone.made import (
    DINO,
    DINOV2,
    HEADS,
    MASK,
    PATCH,
    SIZE,
    TIMM,
    WIDTH,
    WITH_REGISTERS,
    Plan,
    chunked,
    prefixed,
    tokens,
    vit,
)
from tests.training.backbone.made_transformers import transformers_model
from training.backbone.foreign import BackboneOptions, ForeignBackbone, read_backbone
from training.backbone.frozen import read_frozen
from training.backbone.transformers_format import save_transformers
from training.backbone.vit import Tokens
from training.backbone.weights import save_backbone

SIZES = [(SIZE, SIZE), (SIZE - 2 * PATCH, SIZE + 3 * PATCH)]
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
HEAD = {"head.mlp.0.weight": torch.ones(2, 2), "head.last_layer.weight_g": torch.ones(2, 1)}
Wrap = Callable[[dict[str, Tensor]], Any]


def decoder(*blocks: str) -> dict[str, Tensor]:
    names = (
        "mask_token",
        "decoder_embed.weight",
        "decoder_pos_embed",
        *(f"decoder_blocks.0.{name}" for name in blocks),
    )
    return {name: torch.ones(1, 1, 7) for name in names}


class Kind(NamedTuple):
    family: str
    plan: Plan
    wrap: Wrap
    options: Mapping[str, Any] = MappingProxyType({"heads": HEADS})
    ignored: int = 0


PLAIN_DECODER = decoder("norm1.bias", "attn.qkv.bias", "mlp.fc1.bias")
KINDS = {
    "dino, released": Kind("dino", DINO, lambda s: s, {"heads": HEADS, "family": "dino"}),
    "dino, checkpoint": Kind(
        "dino",
        DINO,
        lambda s: {
            "teacher": prefixed(s, "backbone.") | HEAD,
            "student": prefixed(vit(DINO, seed=1), "module.backbone."),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 3,
        },
        ignored=2 + len(vit(DINO)),
    ),
    "dino, teacher alone": Kind("dino", DINO, lambda s: {"teacher": {name: nn.Parameter(t) for name, t in s.items()}}),
    "ibot": Kind("ibot", DINO, lambda s: {"state_dict": s | {"masked_embed": torch.full((1, WIDTH), 0.5)}}),
    "dinov2, released": Kind("dinov2", DINOV2, lambda s: s | MASK),
    "dinov2, swiglu": Kind("dinov2", DINOV2._replace(swiglu=True), lambda s: s | MASK),
    "dinov2, chunks of FSDP": Kind(
        "dinov2",
        DINOV2,
        lambda s: {
            "model": prefixed(chunked(s | MASK), "teacher.backbone.")
            | prefixed(chunked(vit(DINOV2, seed=1) | MASK), "student.backbone.")
            | {"teacher.dino_head.mlp.0.weight": torch.ones(2, 2)}
        },
        ignored=2 + len(vit(DINOV2)),
    ),
    "dinov2, registers": Kind("dinov2_with_registers", WITH_REGISTERS, lambda s: prefixed(s | MASK, "module.")),
    "t-core": Kind(
        "dinov2_with_registers",
        WITH_REGISTERS,
        lambda s: {"teacher": prefixed(s | MASK, "backbone.") | {"dino_head.mlp.0.weight": torch.ones(2, 2)}},
        ignored=1,
    ),
    "mae": Kind("mae", Plan(), lambda s: {"model": s | PLAIN_DECODER}, ignored=6),
    "cropmae": Kind("siam-mae", DINO, lambda s: {"model": s | decoder("cross_attn.q.bias")}, ignored=4),
    "rsp": Kind(
        "siam-mae",
        DINO,
        lambda s: {"model": s | decoder("cattn.q.bias", "norm_kv1.bias") | {"to_prior.0.bias": torch.ones(2)}},
        ignored=6,
    ),
    "timm, no_embed_class": Kind("timm", TIMM, lambda s: s),
    "timm, registers with positions": Kind("timm", TIMM._replace(table="all", scales=False), lambda s: s),
    "timm, classifier": Kind(
        "timm", Plan(resize="antialias"), lambda s: s | {"head.weight": torch.ones(5, WIDTH)}, ignored=1
    ),
    "timm, no qkv bias": Kind("timm", TIMM._replace(qkv_bias=False), lambda s: s),
    "timm, no class token": Kind("timm", TIMM._replace(class_token=False), lambda s: s),
    "timm, no_embed_class without registers": Kind(
        "timm",
        Plan(resize="antialias", table="patches"),
        lambda s: s,
        {"heads": HEADS, "family": "timm"},
    ),
}


def read(path: Path, **options: Any) -> ForeignBackbone:
    return read_backbone(path, BackboneOptions.model_validate(options))


def assert_same_tokens(result: Tokens, expected: Tensor) -> None:
    """Tokens of ours and (B, prefix + P, D) of another project."""
    patches = expected[:, -result.patches.shape[1] :]
    torch.testing.assert_close(result.patches, patches, rtol=1e-5, atol=1e-5)
    prefix = expected.shape[1] - patches.shape[1]
    if prefix > result.registers.shape[1]:
        torch.testing.assert_close(result.cls, expected[:, 0], rtol=1e-5, atol=1e-5)
    else:
        torch.testing.assert_close(result.cls, patches.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        result.registers, expected[:, prefix - result.registers.shape[1] : prefix], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_tokens_are_those_of_an_independent_vit(tmp_path: Path, name: str) -> None:
    kind, state = KINDS[name], vit(KINDS[name].plan)
    torch.save(kind.wrap(dict(state)), tmp_path / "weights.pth")
    source = read(tmp_path / "weights.pth", **kind.options)
    assert (source.family, source.settings.interpolation) == (kind.family, kind.plan.resize)
    assert len(source.ignored) == kind.ignored
    assert len(source.mapped) + len(source.ignored) == count(kind.wrap(dict(state)))
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        assert_same_tokens(source.backbone(images), tokens(state, kind.plan, images))


def count(content: Any) -> int:
    """Tensors under names."""
    if isinstance(content, Tensor):
        return 1
    return sum(count(v) for k, v in content.items() if isinstance(k, str)) if isinstance(content, dict) else 0


def test_the_student_is_read_on_request(tmp_path: Path) -> None:
    kind = KINDS["dino, checkpoint"]
    torch.save(kind.wrap(vit(DINO)), tmp_path / "weights.pth")
    student = read(tmp_path / "weights.pth", heads=HEADS, part="student").backbone
    assert torch.equal(student.norm.bias, vit(DINO, seed=1)["norm.bias"])


def test_what_a_file_lacks_and_what_is_ignored_is_listed(tmp_path: Path) -> None:
    torch.save({"model": vit(Plan(table="cls")) | PLAIN_DECODER}, tmp_path / "mae.pth")
    source = read(tmp_path / "mae.pth", heads=HEADS)
    assert "initial value: blocks.*.ls1.gamma = 1 (2), blocks.*.ls2.gamma = 1 (2), mask_token = 0" in source.summary()
    assert f"{len(vit(Plan()))} tensors mapped" in source.summary()
    assert source.summary()[-1].startswith("ignored: model.decoder_blocks.*.attn.qkv.bias, ")
    assert json.loads(json.dumps(source.record()))["source_sha256"] == source.sha256


def test_other_pixel_normalization_becomes_part_of_the_patch_embedding(tmp_path: Path) -> None:
    state, mean, std = vit(DINO), (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)
    torch.save(state, tmp_path / "weights.pth")
    source = read(tmp_path / "weights.pth", heads=HEADS, family="dino", mean=mean, std=std)
    pixels = torch.rand(2, 3, SIZE, SIZE)
    theirs = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        assert_same_tokens(source.backbone((pixels - IMAGENET[0]) / IMAGENET[1]), tokens(state, DINO, theirs))
    assert source.normalization == (mean, std, "options")


def test_a_folder_of_timm_says_its_normalization_and_heads(tmp_path: Path) -> None:
    said = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5], "input_size": [3, SIZE, SIZE]}
    config = {"architecture": "vit_tiny", "pretrained_cfg": said, "model_args": {"num_heads": HEADS}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.half() for name, tensor in vit(TIMM).items()}, tmp_path / "model.safetensors")
    source = read(tmp_path)
    assert source.settings.heads == HEADS
    assert source.family == "timm"
    assert source.normalization[:2] == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    assert source.backbone.norm.bias.dtype == torch.float32


def transformers_tokens(model: Any, images: Tensor) -> Tensor:
    base = getattr(model, "vit", model)
    more: dict[str, Any] = {}
    if base is not model:
        more["interpolate_pos_encoding"] = True
    if model.config.model_type == "vit_mae":
        more["noise"] = torch.arange(images[0, 0].numel() // 16**2).expand(len(images), -1)  # the order of the patches
    result: Tensor = base(images, **more).last_hidden_state
    return result


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("kind", ["vit", "vit_mae", "dinov2", "dinov2, swiglu", "dinov2_with_registers"])
@torch.no_grad()
def test_folders_of_transformers_give_its_tokens(tmp_path: Path, kind: str, in_memory: bool) -> None:
    model = transformers_model(kind)
    model.save_pretrained(tmp_path)
    if in_memory:  # transformers 5 saves under older names than those of its modules
        saved = load_file(tmp_path / "model.safetensors").keys()
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        assert saved != model.state_dict().keys()
    source = read(tmp_path)
    assert source.family == kind.split(",")[0]
    for size in ((32, 32), (48, 80)):
        images = torch.randn(2, 3, *size)
        assert_same_tokens(source.backbone(images), transformers_tokens(model, images))


@torch.no_grad()
def test_dinov3_is_evaluated_through_transformers_and_not_trained(tmp_path: Path) -> None:
    model = transformers_model("dinov3_vit")
    model.save_pretrained(tmp_path)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    frozen = read_frozen(tmp_path)
    assert (frozen.width, frozen.patch_size, frozen.image_size) == (32, 16, 32)
    pixels = torch.rand(2, 3, 48, 80)
    theirs = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert_same_tokens(frozen.module((pixels - IMAGENET[0]) / IMAGENET[1]), model(theirs).last_hidden_state)
    drawn_once, drawn_again, other = (read_frozen(tmp_path, random_seed=seed).module(pixels).cls for seed in (1, 1, 2))
    assert torch.equal(drawn_once, drawn_again)
    assert not torch.allclose(drawn_once, other)


@torch.no_grad()
def test_a_bin_file_in_shards_and_a_preprocessor_file_are_read(tmp_path: Path) -> None:
    model = transformers_model("dinov2_with_registers")
    model.save_pretrained(tmp_path)
    tensors = list(load_file(tmp_path / "model.safetensors").items())
    (tmp_path / "model.safetensors").unlink()
    saved = {f"pytorch_model-{number}.bin": dict(tensors[number::2]) for number in (0, 1)}
    for name, part in saved.items():
        torch.save(part, tmp_path / name)
    index = {"weight_map": {key: name for name, part in saved.items() for key in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    source = read(tmp_path)
    assert source.normalization == ((0.5,) * 3, (0.5,) * 3, "preprocessor file")
    pixels = torch.rand(1, 3, 32, 32)
    assert_same_tokens(
        source.backbone((pixels - IMAGENET[0]) / IMAGENET[1]), transformers_tokens(model, 2 * pixels - 1)
    )


@torch.no_grad()
def test_round_trip_from_timm_over_transformers_gives_the_same_tokens(tmp_path: Path) -> None:
    state = vit(TIMM)
    save_file(state, tmp_path / "timm.safetensors")
    source = read(tmp_path / "timm.safetensors", heads=HEADS)
    save_transformers(tmp_path / "folder", source.backbone, source.record())
    save_backbone(tmp_path / "export.safetensors", source.backbone, source.record())
    model = transformers.AutoModel.from_pretrained(tmp_path / "folder")
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        expected = tokens(state, TIMM, images)
        torch.testing.assert_close(model(images).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
        for path in (tmp_path / "folder", tmp_path / "export.safetensors"):
            assert_same_tokens(read(path).backbone(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["dinov2, released", "dinov2, swiglu", "timm, no class token"])
def test_exports_of_other_forms_are_read_back(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    torch.save(kind.wrap(vit(kind.plan)), tmp_path / "weights.pth")
    source = read(tmp_path / "weights.pth", heads=HEADS)
    images = torch.randn(1, 3, *SIZES[1])
    save_backbone(tmp_path / "export.safetensors", source.backbone, {})
    assert torch.equal(read(tmp_path / "export.safetensors").backbone(images).patches, source.backbone(images).patches)
    if not kind.plan.class_token:
        return  # transformers has no such model
    save_transformers(tmp_path / "folder", source.backbone, {})
    again = read(tmp_path / "folder")
    assert again.settings == source.settings
    assert torch.equal(again.backbone(images).patches, source.backbone(images).patches)
    native = torch.randn(1, 3, SIZE, SIZE)
    model = transformers.AutoModel.from_pretrained(tmp_path / "folder")
    assert_same_tokens(source.backbone(native), model(native).last_hidden_state)
