"""Activation checkpointing: blocks that compute again in the backward pass what they would else keep in memory."""

import functools
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]

_aten = torch.ops.aten
_SAVED = frozenset(
    [
        _aten.mm.default,
        _aten.addmm.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    ]
)
"""Operations whose results `selective` keeps: matrix products and attention, nearly all of the arithmetic."""


def _policy(_context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:  # noqa: ANN401 - as torch calls it
    return CheckpointPolicy.MUST_SAVE if operation in _SAVED else CheckpointPolicy.PREFER_RECOMPUTE


def recompute_activations(blocks: Iterable[nn.Module], mode: Recompute) -> None:
    """Let every block recompute its activations in the backward pass; results and parameter names stay the same.

    `selective` recomputes only what is cheap (norms, GELU, scaling); `full` keeps the block's input alone.
    """
    if mode == "none":
        return
    selected = {"context_fn": functools.partial(create_selective_checkpoint_contexts, _policy)}
    options = selected if mode == "selective" else {}
    for block in blocks:
        block.forward = functools.partial(_forward, block.forward, options)


def _forward(forward: Any, options: dict[str, Any], *inputs: Any) -> Any:  # noqa: ANN401 - any module's forward
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
