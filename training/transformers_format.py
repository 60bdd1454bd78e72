"""The backbone as a folder that `transformers` loads: Dinov2WithRegistersModel.from_pretrained(folder)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import as_json, atomic_path
from pipeline.settings import UserError
from training.vit import VisionTransformer, VitSettings

_NAMES = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
}


def transformers_config(settings: VitSettings) -> dict[str, Any]:
    """Content of config.json."""
    return {
        "architectures": ["Dinov2WithRegistersModel"],
        "model_type": "dinov2_with_registers",
        "hidden_size": settings.width,
        "num_hidden_layers": settings.depth,
        "num_attention_heads": settings.heads,
        "mlp_ratio": int(settings.mlp_ratio),
        "patch_size": settings.patch_size,
        "image_size": settings.image_size,
        "num_register_tokens": settings.registers,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "layerscale_value": settings.layer_scale,
        "drop_path_rate": 0.0,
    }


def transformers_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `VisionTransformer` under the names of Dinov2WithRegistersModel."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
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


def save_transformers(folder: Path, backbone: VisionTransformer, card: Mapping[str, Any]) -> None:
    """Write config.json, model.safetensors and tcore_card.json as float32, atomically.

    Raises:
        UserError: the folder cannot be written, or `transformers` cannot hold such a backbone.
    """
    settings = backbone.settings
    if settings.mlp_ratio != int(settings.mlp_ratio):
        raise UserError(f"transformers needs a whole number as mlp_ratio, not {settings.mlp_ratio}")
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    described = {"architecture": settings.model_dump(mode="json"), **card}
    try:
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            save_file(transformers_tensors(tensors), temporary / "model.safetensors", metadata={"format": "pt"})
            (temporary / "config.json").write_bytes(as_json(transformers_config(settings)))
            (temporary / "tcore_card.json").write_bytes(as_json(described))
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the weights {folder}: {error}") from error
