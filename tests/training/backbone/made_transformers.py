"""Small models of `transformers` with random weights."""

from typing import Any

import torch
import transformers

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 16}
"""Sizes of the models of transformers."""


def drawn(model: Any) -> Any:
    """A model of transformers in eval mode with large random parameters, so that everything shows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval()


def transformers_model(kind: str) -> Any:
    t = transformers
    if kind == "vit":
        return drawn(t.ViTForImageClassification(t.ViTConfig(**SMALL, intermediate_size=64, layer_norm_eps=1e-3)))
    if kind == "vit_mae":
        config = t.ViTMAEConfig(**SMALL, intermediate_size=64, decoder_num_hidden_layers=1, mask_ratio=0.0)
        return drawn(t.ViTMAEForPreTraining(config))
    if kind == "dinov2":
        return drawn(t.Dinov2Model(t.Dinov2Config(**SMALL)))
    if kind == "dinov2, swiglu":
        return drawn(t.Dinov2Model(t.Dinov2Config(**SMALL, use_swiglu_ffn=True)))
    if kind == "dinov3_vit":
        return drawn(t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, intermediate_size=64, num_register_tokens=2)))
    return drawn(t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**SMALL)))
