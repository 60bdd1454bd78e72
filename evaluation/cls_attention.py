"""Attention maps of the CLS token in a backbone's last block."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.backbones import Checkpoint
from evaluation.benchmark import Clip, LabelPropagation
from evaluation.frames import network_input
from evaluation.pictures import Picture
from pipeline.report.heat import heat
from training.backbone.vit import Block, VisionTransformer


@torch.no_grad()
def cls_attention(backbone: VisionTransformer, image: Tensor) -> NDArray[np.float32]:
    """Attention (gh, gw) of the CLS token of the last block to the patches of an image (3, H, W), mean over heads."""
    projected: list[Tensor] = []
    last = backbone.blocks[-1]
    assert isinstance(last, Block)
    handle = last.attn.qkv.register_forward_hook(lambda _module, _inputs, output: projected.append(output[0]))
    try:
        backbone(image[None])
    finally:
        handle.remove()
    query, key, _ = projected[0].view(len(projected[0]), 3, last.attn.heads, -1).permute(1, 2, 0, 3)
    weights = (query[:, :1] @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1).mean(0)[0]
    patch = backbone.settings.patch_size
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    patches: NDArray[np.float32] = weights[1 + backbone.settings.registers :].view(grid).float().cpu().numpy()
    return patches


def attention_maps(
    checkpoint: Checkpoint, propagation: LabelPropagation[Any], clips: Mapping[str, Clip]
) -> dict[str, Picture]:
    """The first frame of each clip as a heat map of CLS attention; empty for other networks and without CLS token."""
    backbone = checkpoint.backbone
    if not isinstance(backbone, VisionTransformer) or not backbone.settings.class_token:
        return {}
    maps = {}
    for name, clip in clips.items():
        frame = clip.frames[0].read()
        image = network_input(frame, propagation.network_size(clip), propagation.frame_resampling())
        image = image.to(checkpoint.extractor.device)
        maps[name] = heat(frame, cls_attention(backbone, image))
    return maps
