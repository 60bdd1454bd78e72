"""Read a folder that `transformers` or timm saved: its tensors, and what its JSON files say. Its code is never run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.files import sha256_file
from pipeline.reading import read_json, reading
from pipeline.settings import UserError
from training.backbone.source import CONFIG, MODEL, PREPROCESSOR, existing, tensor_files
from training.backbone.tensor_files import read_tensors
from training.backbone.transformers_format import CARD

ROTARY = "dinov3_vit"
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
        return "timm"
    raise UserError(
        f"{folder} is not a folder of a transformers model; `python -m training.export {folder} FILE` makes weights "
        "from a checkpoint"
    )


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name of a folder whose model our backbone can be, and what its JSON files say.

    Raises:
        UserError: a file is missing or damaged, holds code, or the model is of another type.
    """
    kind = model_type(folder)
    if kind == ROTARY:
        raise UserError(
            f"{folder} has a model of the type {kind}, with rotary positions: it can be evaluated and gives features, "
            "but cannot be trained or exported here; take one with a position table, such as DINOv2"
        )
    if kind not in (*_TYPES, "timm"):
        allowed = ", ".join((*_TYPES, ROTARY))
        raise UserError(f"{folder} has a transformers model of the type {kind}; allowed are {allowed}")
    config, said = read_json(folder / CONFIG), read_preprocessor(folder)
    if kind == "timm":
        with reading(folder / CONFIG, "a configuration of timm"):
            arguments = dict(config.get("model_args") or {})
            heads = {"heads": int(arguments["num_heads"])} if "num_heads" in arguments else {}
            said = {
                **_normalization(dict(config["pretrained_cfg"]), folder / CONFIG),
                **said,
                "family": "timm",
                **heads,
            }
    else:
        said |= {"family": kind, **_TYPES[kind], **_said(config, folder / CONFIG), **_card(folder)}
    return {name: tensor for file in tensor_files(folder) for name, tensor in read_tensors(file).items()}, said


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
    said = {}
    for key in ("mean", "std"):
        if (value := content.get(key)) is None:
            continue
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


def _card(folder: Path) -> dict[str, Any]:
    """Settings in the card of an export of this project whose model is unchanged."""
    if not existing(folder, CARD):
        return {}
    card = read_json(folder / CARD)
    recorded = card.get("sha256")
    if not isinstance(recorded, dict) or any(
        not (folder / name).is_file() or recorded.get(name) != sha256_file(folder / name) for name in (MODEL, CONFIG)
    ):
        return {}
    architecture = card.get("architecture")
    return dict(architecture) if isinstance(architecture, dict) else {}
