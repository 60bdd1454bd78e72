"""What is no backbone that can be read, or contradicts itself or the options, is refused in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import sha256_file
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from tests.training.backbone.made import DINO, DINOV2, HEADS, MASK, TIMM, WIDTH, Runs, prefixed, vit
from tests.training.backbone.made_transformers import transformers_model
from training.backbone.families import BackboneOptions, Facts, choose_heads
from training.backbone.foreign import ForeignBackbone, read_backbone
from training.backbone.frozen import FrozenBackbone, read_frozen
from training.backbone.timm_format import save_timm
from training.backbone.transformers_format import save_transformers
from training.backbone.vit import VitSettings, random_backbone
from training.backbone.weights import backbone_sha256, save_backbone


def read(path: Path, **options: Any) -> ForeignBackbone:
    return read_backbone(path, BackboneOptions.model_validate(options))


def in_folder(model_type: str, weights: str) -> Callable[[Path], Path]:
    def place(folder: Path) -> Path:
        config: dict[str, Any] = {"pretrained_cfg": {}} if model_type == "timm" else {"model_type": model_type}
        (folder / "config.json").write_text(json.dumps(config))
        return folder / weights

    return place


@pytest.mark.parametrize(
    "place",
    [
        lambda folder: folder / "weights.pth",
        lambda folder: folder / "weights.bin",
        lambda folder: folder / "weights.safetensors",
        *(
            in_folder(kind, weights)
            for kind in ("timm", "vit", "vit_mae", "dinov2", "dinov2_with_registers", "dinov3_vit")
            for weights in ("pytorch_model.bin", "model.safetensors")
        ),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, place: Callable[[Path], Path], zipped: bool) -> None:
    path, marker = place(tmp_path), tmp_path / "has run"
    torch.save({"teacher": vit(DINO), "x": Runs(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"an object that can run code when it is loaded, and only tensors are read"
    ) as error:
        read_frozen(tmp_path if (tmp_path / "config.json").exists() else path)
    assert not marker.exists()
    assert "weights_only" not in str(error.value)


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in vit(DINO).items() if key != name}


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (
            vit(DINO),
            {},
            r"does not say which project it is of, nor how many attention heads .*family \(dino, ibot, mae, ",
        ),
        (vit(DINO), {"heads": 3}, r"does not say which project it is of: give the option family"),
        (vit(DINO), {"family": "dino"}, r"does not say how many attention heads its blocks of width 24 have"),
        (vit(DINOV2) | MASK, {"family": "mae"}, "the option family = mae contradicts .* are those of dinov2: leave it"),
        (vit(DINOV2) | MASK, {"heads": 5}, r"the option heads = 5 must divide the width 24 of"),
        (vit(DINOV2) | MASK, {"heads": 3, "image_size": 32}, "image_size = 32 contradicts .*, which has 20"),
        (
            {"student": vit(DINO)},
            {},
            "does not have one teacher: .* are student.; choose with the option part = student",
        ),
        (
            {"a": vit(DINO), "b": vit(DINO)},
            {},
            "does not have one teacher: its Vision Transformers are a., b.; save the",
        ),
        ({"teacher": vit(DINO)}, {"part": "student"}, "choose with the option part = teacher"),
        (vit(DINOV2) | MASK, {"part": "student", "heads": 3}, "part = student contradicts .*, which does not say it"),
        (vit(DINOV2) | {"blocks.0.0.norm1.bias": torch.ones(WIDTH)}, {}, "and blocks.0.norm1.bias are the same tensor"),
        (
            vit(DINO) | {"blocks.0.attn.q_norm.weight": torch.ones(8)},
            {},
            r"blocks\.0\.attn\.q_norm\.weight \(another att",
        ),
        (vit(DINO) | {"rope_embed.periods": torch.ones(8)}, {}, r"architecture: rope_embed.periods \(rotary positions"),
        (
            vit(DINO) | {"norm_pre.weight": torch.ones(8)},
            {},
            r"norm_pre.weight \(a LayerNorm before the blocks, as CLIP",
        ),
        (vit(DINO) | {"fc_norm.weight": torch.ones(8)}, {}, r"fc_norm.weight \(average pooling"),
        (vit(DINO) | {"attn_pool.latent": torch.ones(8)}, {}, r"attn_pool.latent \(attention pooling, as SigLIP"),
        (
            {n: t[:, :48] if "fc2.w" in n else t for n, t in vit(DINO).items()},
            {"family": "dino"},
            "a gated unit of timm",
        ),
        (vit(DINO) | {"temporal_embed": torch.ones(8)}, {}, r"temporal_embed \(an unknown tensor\)"),
        ({"patch_embed.proj.weight": torch.ones(4, 3, 2, 4, 4)}, {}, "its patch embedding is 4x3x2x4x4 .of video."),
        ({"conv1.weight": torch.ones(4, 3, 7, 7)}, {}, "no Vision Transformer: .* but conv1.weight"),
        ({"epoch": 3}, {}, "holds no named tensors"),
        (vit(DINO) | {"pos_embed": torch.ones(26)}, {"family": "dino"}, "pos_embed is 26 beside a width of 24"),
        (
            vit(DINO) | {"blocks.0.mlp.fc1.weight": torch.ones(())},
            {"family": "dino"},
            r"mlp.fc1.weight is  beside a width",
        ),
        (
            vit(DINO) | {"blocks.99999999999.norm1.bias": torch.ones(WIDTH)},
            {"family": "dino"},
            "has no blocks.2: it is another architecture or not complete",
        ),
        (without("pos_embed"), {"family": "dino"}, "has no pos_embed"),
        (
            vit(DINO) | {"pos_embed": torch.ones(1, 7, WIDTH)},
            {"family": "dino"},
            "7 positions, which is not that of a sq",
        ),
        (without("blocks.1.norm1.bias"), {"family": "dino", "heads": 3}, r"blocks\.1\.norm1\.bias is absent where 24"),
        (
            {"embeddings.patch_embeddings.projection.weight": torch.ones(4, 3, 4, 4)},
            {},
            "part of a transformers folder",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    tmp_path: Path, content: Any, options: dict[str, Any], words: str
) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=words):
        read(tmp_path / "weights.pth", **options)


def test_heads_of_a_published_model_follow_from_a_family_that_is_given(tmp_path: Path) -> None:
    options = BackboneOptions(family="dinov2")
    assert [choose_heads(None, options, "dinov2", width, tmp_path) for width in (384, 768, 1536)] == [6, 12, 24]
    with pytest.raises(UserError, match=r"give the option heads \(published models of mae have 12\)"):
        choose_heads(None, BackboneOptions(), "mae", 768, tmp_path)


def test_heads_are_not_guessed_for_what_the_authors_code_did_not_write(tmp_path: Path) -> None:
    state = random_backbone(VitSettings(width=384, depth=1, heads=12, image_size=16), 0).state_dict()
    weights = tmp_path / "run" / "model.safetensors"
    weights.parent.mkdir()
    save_file(prefixed(state, "teacher.backbone.") | {"teacher.cls_head.mlp.0.weight": torch.ones(2, 2)}, weights)
    with pytest.raises(UserError, match="does not say how many attention heads its blocks of width 384 have"):
        read(weights)
    settings = {"model": {"backbone": {"width": 384, "depth": 1, "heads": 12, "image_size": 16}}}
    (weights.parent / "config.json").write_text(json.dumps(settings))
    hashes = {name: sha256_file(weights.parent / name) for name in ("model.safetensors", "config.json")}
    (weights.parent / "state.json").write_text(json.dumps({"step": 1, "sha256": hashes}))
    assert read(weights).settings.heads == 12  # the settings of the run, beside its checkpoint
    with pytest.raises(UserError, match=r"the option heads = 6 contradicts .*, which has 12: leave it out"):
        read(weights, heads=6)
    (weights.parent / "config.json").write_text(json.dumps(settings | {"more": 1}))
    with pytest.raises(UserError, match=r"run is damaged: its files are not those that state\.json describes"):
        read(weights)


FACTS: dict[str, Any] = {"heads": 4, "image_size": 32, "norm_eps": 1e-6, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
"""Of the sources below, as far as they do not say otherwise."""
OTHER = {"part": "student", "family": "ibot", "heads": 2, "image_size": 48, "norm_eps": 0.25}
"""Options that contradict each of them; mean and std go together."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """A source of each kind, and what it says."""
    folder = tmp_path_factory.mktemp("sources")
    backbone = random_backbone(VitSettings(width=32, depth=1, heads=4, image_size=32), 0)
    card = {"part": "teacher", "weights_sha256": backbone_sha256(backbone)}
    save_backbone(folder / "export", backbone, card)
    save_backbone(folder / "imported", backbone, {"family": "dino"})
    save_transformers(folder / "export for transformers", backbone, card)
    save_timm(folder / "export for timm", backbone, card)
    torch.save({"teacher": prefixed(backbone.state_dict(), "backbone.")}, folder / "checkpoint")
    says: dict[str, dict[str, Any]] = {
        "export": {"part": "teacher", "family": "t-core"},
        "imported": {"part": None, "family": "dino"},
        "export for transformers": {"part": "teacher", "family": "t-core"},
        "export for timm": {"part": "teacher", "family": "t-core"},
        "checkpoint": {"part": "teacher", "family": "dinov2_with_registers"},
        "dinov2": {"part": None, "family": "dinov2"},
        "vit": {"part": None, "family": "vit", "norm_eps": 1e-3},
        "dinov3_vit": {"part": None, "family": "dinov3_vit", "norm_eps": 1e-5},
    }
    for kind in ("dinov2", "vit", "dinov3_vit"):
        transformers_model(kind).save_pretrained(folder / kind)
        normalization = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
        (folder / kind / "preprocessor_config.json").write_text(json.dumps(normalization))
        says[kind] |= {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    return {kind: (folder / kind, FACTS | said) for kind, said in says.items()}


KINDS = [
    "export",
    "imported",
    "export for transformers",
    "export for timm",
    "checkpoint",
    "dinov2",
    "vit",
    "dinov3_vit",
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_that_contradicts_any_kind_of_source_is_refused(
    sources: dict[str, tuple[Path, dict[str, Any]]], kind: str
) -> None:
    path, facts = sources[kind]
    unsaid = {key: facts[key] for key in ("heads", "norm_eps", "mean", "std") if kind == "checkpoint"}

    def frozen(**options: Any) -> FrozenBackbone:
        return read_frozen(path, BackboneOptions.model_validate(unsaid | options))

    families = get_args(get_args(BackboneOptions.model_fields["family"].annotation)[0])
    same = {key: value for key, value in facts.items() if value is not None and (key != "family" or value in families)}
    assert frozen(**same).record["architecture"]["heads"] == 4
    for key, value in OTHER.items():
        if key in unsaid:
            continue
        which = "which does not say it" if facts[key] is None else f"which has {facts[key]}"
        message = f"the option {key} = {value} contradicts .*({which}|those of dinov2_with)"
        with pytest.raises(UserError, match=f"{message}|does not have one student"):
            frozen(**{key: value})
    if not unsaid:
        with pytest.raises(UserError, match=r"the option mean = \(0\.1, 0\.1, 0\.1\) contradicts .*: leave it out"):
            frozen(mean=[0.1] * 3, std=facts["std"])
    with pytest.raises(ValidationError, match="mean and std are one normalization: give both, or neither"):
        frozen(std=facts["std"], mean=())


def test_what_is_read_is_compared_for_every_option() -> None:
    assert set(Facts._fields) == set(BackboneOptions.model_fields)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.json", {"model_args": {}}, "tcore_card.json describes other files than those beside it"),
        ("preprocessor_config.json", {"image_mean": [0.5] * 3}, "tcore_card.json describes other files than"),
        ("tcore_card.json", {"sha256": 3}, "is not the card of an export"),
        ("tcore_card.json", {"architecture": {"heads": 0}}, "is not the card of an export"),
    ],
)
@pytest.mark.parametrize("kind", ["export for timm", "export for transformers"])
def test_a_card_beside_other_files_is_refused(
    sources: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path, kind: str, name: str, change: Any, words: str
) -> None:
    folder = shutil.copytree(sources[kind][0], tmp_path / "folder")
    (folder / "README.md").write_text("Words of mine.")  # anybody may edit it
    assert read(folder).record()["weights_sha256"] == read(sources["export"][0]).record()["weights_sha256"]
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=words):
        read(folder)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("export for timm", {"heads": 2}, r"tcore_card\.json says heads = 2, but config\.json has 4"),
        ("export for transformers", {"image_size": 64}, r"says image_size = 64, but config\.json has 32"),
        ("export for transformers", {"mlp_ratio": 2.0}, r"says mlp_ratio = 2\.0, but its tensors have 4\.0"),
    ],
)
def test_a_card_that_contradicts_its_folder_is_refused(
    sources: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path, kind: str, change: Any, words: str
) -> None:
    folder = shutil.copytree(sources[kind][0], tmp_path / "folder")
    card = json.loads((folder / "tcore_card.json").read_text())
    (folder / "tcore_card.json").write_text(json.dumps(card | {"architecture": card["architecture"] | change}))
    with pytest.raises(UserError, match=words):
        read(folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 8}, "heads = 5 contradicts"),
        ({"embed_dim": 12}, "says width = 12, but its tensors have 24"),
        ({"depth": 3}, "says depth = 3, but its tensors have 2"),
        ({"patch_size": 8}, "says patch_size = 8, but its tensors have 4"),
        ({"img_size": [24, 24]}, "says image_size = 24, but its tensors have 20"),
        ({"img_size": [20, 24]}, r"model_args\.img_size = \[20, 24\], where a number is expected"),
        ({"mlp_ratio": 2}, r"says mlp_ratio = 2, but its tensors have 4\.0"),
        ({"reg_tokens": 0}, "says registers = 0, but its tensors have 4"),
        ({"class_token": False}, "says class_token = False, but its tensors have True"),
        ({"no_embed_class": False}, "25 positions, which is not that of a square image, and 5 more"),
        ({"qkv_bias": False}, "says qkv_bias = False, but its tensors have True"),
        ({"init_values": None}, "says scaled = False, but its tensors have True"),
        ({"act_layer": "relu"}, r"model_args\.act_layer = relu: such a network of timm is not supported"),
        ({"dynamic_img_size": True, "img_size": 20}, "heads = 5 contradicts"),  # changes nothing
    ],
)
def test_arguments_of_a_folder_of_timm_are_compared_with_its_tensors(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    config = {"pretrained_cfg": {}, "model_args": {"num_heads": HEADS} | arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(vit(TIMM), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=words):
        read(tmp_path, heads=5)


@pytest.mark.parametrize(
    ("config", "preprocessor", "words"),
    [
        ({"hidden_act": "quick_gelu"}, {}, "hidden_act = quick_gelu; only gelu is supported"),
        ({"num_hidden_layers": 3}, {}, "says depth = 3, but its tensors have 2"),
        ({"num_attention_heads": "many"}, {}, "num_attention_heads = many, where a number is expected"),
        ({"num_attention_heads": 5}, {}, "does not describe a backbone: heads = 5 must divide width = 32$"),
        ({"layer_norm_eps": 2}, {}, r"does not describe a backbone: norm_eps = 2\S*: Input should be less than"),
        ({}, {"do_rescale": False}, "does not scale pixels to 0 to 1"),
        ({}, {"rescale_factor": "1/255"}, "is not a preprocessor configuration of transformers"),
        ({}, {"image_mean": [0.5] * 3}, "has the mean of the pixels alone, where mean and std are expected"),
        (
            {},
            {"image_mean": [1, 2], "image_std": 1},
            r"mean = \[1, 2\] for the pixels, where three numbers are expected",
        ),
        ({}, {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0, 0.5]}, "std = .* three numbers are expected"),
    ],
)
def test_folders_that_contradict_themselves_are_refused(
    sources: dict[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    config: dict[str, Any],
    preprocessor: dict[str, Any],
    words: str,
) -> None:
    folder = shutil.copytree(sources["dinov2"][0], tmp_path / "folder")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    with pytest.raises(UserError, match=words):
        read(folder)


def test_an_index_that_names_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json names no files with tensors"):
        read(tmp_path)


def test_rotary_positions_are_not_trained(sources: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    with pytest.raises(UserError, match=r"dinov3_vit, with rotary positions: it can be evaluated .* cannot be trained"):
        read(sources["dinov3_vit"][0])
