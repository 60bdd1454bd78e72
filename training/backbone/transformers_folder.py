"""Read a folder that `transformers` or timm saved: its tensors, and what its JSON files say. Its code is never run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pipeline.files import sha256_file
from pipeline.reading import read_json, reading
from pipeline.settings import UserError
from training.backbone.source import CONFIG, MODEL, PREPROCESSOR, existing, tensor_files
from training.backbone.tensor_files import read_tensors
from training.backbone.transformers_format import CARD
from training.backbone.vit import VitSettings

ROTARY, TIMM = "dinov3_vit", "timm"
_TYPES: dict[str, dict[str, object]] = {
    "vit": {"norm_eps": 1e-12, "interpolation": "plain"},
    "vit_mae": {"norm_eps": 1e-12, "interpolation": "plain"},
    "dinov2": {"norm_eps": 1e-6, "interpolation": "plain"},
    "dinov2_with_registers": {"norm_eps": 1e-6, "interpolation": "antialias"},
}
"""The types that our backbone can be, with the default of their configuration and what their code does."""
_KEYS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "layer_norm_eps": "norm_eps",
    "num_register_tokens": "registers",
}
_TIMM_KEYS = {
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "patch_size": "patch_size",
    "img_size": "image_size",
    "reg_tokens": "registers",
    "mlp_ratio": "mlp_ratio",
    "class_token": "class_token",
    "no_embed_class": "no_embed_class",
    "qkv_bias": "qkv_bias",
}
_TIMM_FREE = re.compile(
    r"num_classes|in_chans|global_pool|fc_norm|pre_norm|final_norm|qk_norm|pos_embed|proj_bias|init_values|.*drop_rate"
    r"|.*_init|dynamic_img_(size|pad)|strict_img_size"
)
"""Arguments that show in the tensors, or do not change the tokens."""


def model_type(folder: Path) -> str:
    """The type of the model in a folder: `model_type` of transformers, or "timm".

    Raises:
        UserError: it is not such a folder.
    """
    try:
        config = read_json(folder / CONFIG)
    except UserError as error:
        raise UserError(f"{folder} is a folder without a readable config.json of transformers ({error})") from error
    if "model_type" in config:
        return str(config["model_type"])
    if "pretrained_cfg" in config:
        return TIMM
    raise UserError(
        f"{folder} is not a folder of a transformers model; `python -m training.export {folder} FILE` makes weights "
        "from a checkpoint"
    )


class Folder(NamedTuple):
    """What a folder holds."""

    tensors: dict[str, Tensor]
    said: dict[str, Any]
    """What its JSON files say, as `read_layout` takes it, and `mean` and `std`."""
    card: dict[str, Any]
    """Card of an export of this project, otherwise empty."""


def read_folder(folder: Path) -> Folder:
    """Read a folder whose model our backbone can be.

    Raises:
        UserError: a file is missing or damaged, holds code, or the model is of another type; or the card of an export
            is about other files, or contradicts them.
    """
    kind = model_type(folder)
    if kind == ROTARY:
        raise UserError(
            f"{folder} has a model of the type {kind}, with rotary positions: it can be evaluated and gives features, "
            "but cannot be trained or exported here; take one with a position table, such as DINOv2"
        )
    if kind not in (*_TYPES, TIMM):
        allowed = ", ".join((*_TYPES, ROTARY))
        raise UserError(f"{folder} has a transformers model of the type {kind}; allowed are {allowed}")
    path, card = folder / CONFIG, _card(folder)
    config, pixels = read_json(path), read_preprocessor(folder)
    if kind == TIMM:
        stated = _said_by_timm(config, path)
        with reading(path, "a configuration of timm"):
            pixels = {**_normalization(dict(config["pretrained_cfg"]), path), **pixels}
    else:
        stated = _said(config, path)
    architecture = dict(card.get("architecture", {}))
    for key, value in stated.items():
        if architecture.get(key, value) != value:
            raise UserError(f"{folder / CARD} says {key} = {architecture[key]}, but {CONFIG} has {value}")
    said = {**_TYPES.get(kind, {}), **stated, **architecture, **pixels, "family": kind}
    return Folder({name: t for file in tensor_files(folder) for name, t in read_tensors(file).items()}, said, card)


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """`mean` and `std` of the pixels as its preprocessor file says; empty without one.

    Raises:
        UserError: the file is damaged, or does not scale pixels to 0 to 1.
    """
    if not existing(folder, PREPROCESSOR):
        return {}
    path = folder / PREPROCESSOR
    content = read_json(path)
    with reading(path, "a preprocessor configuration of transformers"):
        scaled = content.get("do_rescale", True) and abs(255 * content.get("rescale_factor", 1 / 255) - 1) < 1e-3
    if not scaled:
        raise UserError(
            f"{path} does not scale pixels to 0 to 1 (do_rescale, rescale_factor), as all weights here expect"
        )
    if not content.get("do_normalize", True):
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return _normalization({"mean": content.get("image_mean"), "std": content.get("image_std")}, path)


def _normalization(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    said: dict[str, Any] = {}
    given = [key for key in ("mean", "std") if content.get(key) is not None]
    if len(given) == 1:
        raise UserError(f"{path} has the {given[0]} of the pixels alone, where mean and std are expected")
    for key in given:
        value = content[key]
        values = tuple(value) if isinstance(value, list) else (value,) * 3
        numbers = len(values) == 3 and all(isinstance(number, int | float) for number in values)
        if not numbers or (key == "std" and min(values) <= 0):
            raise UserError(f"{path} has {key} = {value} for the pixels, where three numbers are expected")
        said[key] = values
    return said


def _said(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Settings of ours in a configuration of transformers."""
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{path} has hidden_act = {config['hidden_act']}; only gelu is supported")
    said = {}
    for theirs, ours in _KEYS.items():
        value = config.get(theirs)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{path} has {theirs} = {value}, where a number is expected")
        said[ours] = value
    return said


def _said_by_timm(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Settings of ours in the arguments of a model of timm."""
    with reading(path, "a configuration of timm"):
        arguments = dict(config.get("model_args") or {})
    said: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in _TIMM_KEYS:
            value = value[0] if isinstance(value, list) and len(set(value)) == 1 else value
            if not isinstance(value, int | float):
                raise UserError(f"{path} has model_args.{name} = {value}, where a number is expected")
            said[_TIMM_KEYS[name]] = value
        elif not _TIMM_FREE.fullmatch(name):
            raise UserError(f"{path} has model_args.{name} = {value}: such a network of timm is not supported")
    if "init_values" in arguments:
        said["scaled"] = bool(arguments["init_values"])
    return said


def _card(folder: Path) -> dict[str, Any]:
    """The card of an export of this project, without the hashes of its files; empty if there is none.

    Raises:
        UserError: it is about other files.
    """
    if not existing(folder, CARD):
        return {}
    card = read_json(folder / CARD)
    recorded = card.pop("sha256", None)
    names = (MODEL, CONFIG, PREPROCESSOR)
    with reading(folder / CARD, "the card of an export"):
        described = {name: recorded[name] for name in names if name in recorded}
        VitSettings.model_validate(card["architecture"])
    if described != {name: sha256_file(folder / name) for name in names if existing(folder, name)}:
        raise UserError(
            f"{folder / CARD} describes other files than those beside it: copy the folder again, or remove that card "
            "if they were changed on purpose"
        )
    return card
