"""Export of the backbone to a folder for `transformers`: AutoModel.from_pretrained(folder).

The model is a Dinov2WithRegistersModel, which interpolates positions with antialiasing as ours do by default; a
backbone without registers that interpolates without antialiasing is a Dinov2Model. The 0.1 patches that DINO and DINOv2
add to the sides are not in either: away from the native size tokens differ there slightly.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.files import as_json, atomic_path, refuse_others, sha256_file
from pipeline.reading import read_json
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from training.backbone.source import CONFIG, MODEL
from training.backbone.tensor_files import write_safetensors
from training.backbone.vit import VisionTransformer, VitSettings

CARD = "tcore_card.json"
README, PREPROCESSOR = "README.md", "preprocessor_config.json"
FILES = (CARD, MODEL, CONFIG, PREPROCESSOR, README)
"""All files of the folder."""
Tensors = Mapping[str, Tensor]
_NAMES = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}


def transformers_config(settings: VitSettings) -> dict[str, Any]:
    """Content of config.json.

    Raises:
        UserError: `transformers` has no such model.
    """
    if not settings.class_token:
        raise UserError("transformers has no such model: this backbone has no CLS token")
    kind = "Dinov2" if _is_dinov2(settings) else "Dinov2WithRegisters"
    return {
        "architectures": [f"{kind}Model"],
        "model_type": "dinov2" if _is_dinov2(settings) else "dinov2_with_registers",
        "hidden_size": settings.width,
        "num_hidden_layers": settings.depth,
        "num_attention_heads": settings.heads,
        "mlp_ratio": _mlp_ratio(settings),
        "use_swiglu_ffn": settings.mlp == "swiglu",
        "patch_size": settings.patch_size,
        "image_size": settings.image_size,
        **({} if _is_dinov2(settings) else {"num_register_tokens": settings.registers}),
        "layer_norm_eps": settings.norm_eps,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "layerscale_value": settings.layer_scale,
        "drop_path_rate": 0.0,
    }


def _is_dinov2(settings: VitSettings) -> bool:
    return settings.registers == 0 and settings.interpolation != "antialias"


def _mlp_ratio(settings: VitSettings) -> int:
    """The integer from which `transformers` computes the hidden width of the MLP."""

    def hidden(ratio: int) -> int:
        width = settings.width * ratio
        return (int(width * 2 / 3) + 7) // 8 * 8 if settings.mlp == "swiglu" else width

    ratio = next((ratio for ratio in range(1, 1001) if hidden(ratio) == settings.hidden), None)
    if ratio is None:
        raise UserError(f"transformers needs an integer mlp_ratio, not {settings.mlp_ratio}")
    return ratio


def transformers_tensors(tensors: Mapping[str, Tensor], settings: VitSettings) -> dict[str, Tensor]:
    """Tensors of a `VisionTransformer` under the names of the model that `transformers_config` names."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "register_tokens" and _is_dinov2(settings):
            continue
        if name.startswith("norm."):
            renamed[f"layernorm.{name.removeprefix('norm.')}"] = tensor
            continue
        prefix, _, rest = name.rpartition("attn.qkv.")
        if prefix:
            layer = prefix.replace("blocks.", "encoder.layer.")
            for part, rows in zip(("query", "key", "value"), torch.chunk(tensor, 3), strict=True):
                renamed[f"{layer}attention.attention.{part}.{rest}"] = rows.contiguous()
            continue
        new = name.replace("blocks.", "encoder.layer.")
        for ours, theirs in _NAMES.items():
            new = new.replace(ours, theirs)
        renamed[new] = tensor
    return renamed


def preprocessor_config(settings: VitSettings) -> dict[str, Any]:
    """Content of preprocessor_config.json: the whole shorter side, the central square, ImageNet normalization."""
    side = settings.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def save_transformers(folder: Path, backbone: VisionTransformer, card: Mapping[str, Any], readme: str = "") -> None:
    """Write config.json, preprocessor_config.json, model.safetensors (float32), README.md and tcore_card.json.

    Raises:
        UserError: the folder cannot be written or holds other files, or `transformers` does not support the backbone.
    """
    settings = backbone.settings
    configs = {CONFIG: transformers_config(settings), PREPROCESSOR: preprocessor_config(settings)}
    save_folder(folder, backbone, card, partial(transformers_tensors, settings=settings), configs, readme)


def save_folder(
    folder: Path,
    backbone: VisionTransformer,
    card: Mapping[str, Any],
    convert: Callable[[Tensors], Tensors],
    configs: Mapping[str, object],
    readme: str,
) -> None:
    """Write a folder for a library, atomically: its files, and the card with their hashes.

    Args:
        folder: to write; an unchanged earlier export in it is replaced.
        backbone: its tensors are written as float32.
        card: origin of the weights.
        convert: from the tensors of a `VisionTransformer` to those of the library.
        configs: content of JSON files by name.
        readme: text of README.md; without text there is no such file.

    Raises:
        UserError: the folder cannot be written or holds other files.
    """
    tensors = {name: tensor.detach().float().cpu() for name, tensor in backbone.state_dict().items()}
    described = {"architecture": backbone.settings.model_dump(mode="json"), **card}
    refuse_foreign(folder)
    try:
        with atomic_path(folder, FILES) as temporary:
            temporary.mkdir()
            write_safetensors(temporary / MODEL, dict(convert(tensors)), {"format": "pt"})
            for name, content in configs.items():
                (temporary / name).write_bytes(as_json(content))
            if readme:
                (temporary / README).write_text(readme, "utf-8")
            (temporary / CARD).write_bytes(as_json({**described, "sha256": _hashes(temporary)}))
    except OSError as error:
        raise UserError(f"cannot write the weights {folder}: {error.strerror or error}") from error


def _hashes(folder: Path) -> dict[str, str]:
    """Hashes of the files beside the card."""
    return {name: sha256_file(folder / name) for name in FILES if name != CARD and (folder / name).is_file()}


def refuse_foreign(folder: Path) -> None:
    """Check that a folder may be replaced: it is empty, or holds only the unchanged files of an export.

    Raises:
        UserError: it holds anything else; nothing in it is touched.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: give the name of a folder for the weights")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    refuse_others(folder, FILES)
    try:
        recorded = read_json(folder / CARD)["sha256"]
        different = {name for name, sha256 in _hashes(folder).items() if sha256 != recorded.pop(name, None)}
        different |= recorded.keys() - {README}  # a card that was moved away may be written again
    except (OSError, UserError, KeyError, AttributeError, TypeError):
        different = {CARD}
    if different == {README}:
        raise UserError(f"{folder / README} was edited: move it away, or give another name")
    if different:
        raise UserError(
            f"{folder} holds a model that is not the one an export wrote there: give another name, or move that folder "
            "away"
        )
