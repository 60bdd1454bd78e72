import numpy as np
import torch
from torch import Tensor, nn

from evaluation.cls_attention import cls_attention
from training.backbone.vit import Block, VitSettings
from training.backbone.weights import random_backbone

SETTINGS = VitSettings(width=32, depth=2, heads=2, image_size=32, layer_scale=1.0, registers=2)


def test_attention_is_that_of_pytorch_with_the_same_weights() -> None:
    backbone = random_backbone(SETTINGS, 0)
    image = torch.randn(3, 64, 48)
    result = cls_attention(backbone, image)
    block = backbone.blocks[-1]
    assert isinstance(block, Block)
    entering: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    plain = nn.MultiheadAttention(32, 2, batch_first=True)
    with torch.no_grad():
        backbone(image[None])
        handle.remove()
        assert plain.in_proj_weight is not None
        plain.in_proj_weight.copy_(block.attn.qkv.weight)
        plain.in_proj_bias.copy_(block.attn.qkv.bias)
        tokens = block.norm1(entering[0])
        weights = plain(tokens, tokens, tokens, need_weights=True)[1]
    expected = weights[0, 0, 1 + SETTINGS.registers :].view(4, 3)
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_patch_that_changes_is_found_in_its_place() -> None:
    backbone = random_backbone(SETTINGS, 0)
    image = torch.zeros(3, 64, 64)
    before = cls_attention(backbone, image)
    image[:, 16:32, 32:48] = 3
    changed = np.abs(cls_attention(backbone, image) - before)
    assert np.unravel_index(changed.argmax(), changed.shape) == (1, 2)
