"""Activation checkpointing: blocks recompute activations in the backward pass instead of keeping them in memory."""

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
"""Operations whose results `selective` keeps: matrix products and attention, which are nearly all of the work."""


def _policy(_context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:  # noqa: ANN401 - as torch calls it
    return CheckpointPolicy.MUST_SAVE if operation in _SAVED else CheckpointPolicy.PREFER_RECOMPUTE


def recompute_activations(blocks: Iterable[nn.Module], mode: Recompute) -> None:
    """Make the blocks recompute their activations in the backward pass; results and parameter names do not change.

    `selective` recomputes only cheap operations (norms, GELU, scaling); `full` keeps only the input of a block.
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
    if options:
        forward = functools.partial(_casting_anew, forward)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


def _casting_anew(forward: Any, *inputs: Any) -> Any:  # noqa: ANN401 - any module's forward
    """Call `forward` without autocast's cache of weights.

    Selective checkpointing needs the same operations in both passes, and only the first forward pass through a block
    would cast weights that autocast keeps.
    """
    device = inputs[0].device.type
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    with torch.autocast(device, dtype, enabled, cache_enabled=False):
        return forward(*inputs)
