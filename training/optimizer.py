"""AdamW with the parameter groups of the released code, and gradient clipping by module."""

import re
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipeline.settings import FACTOR_LIMIT, Settings
from training.model import TCoRe
from training.schedules import StepValues


class OptimizerSettings(Settings):
    """AdamW and its parameter groups; defaults of DINOv2 that the released code names.

    `layer_decay` and `patch_embed_lr_factor` of 1 give all layers the same learning rate.
    """

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the running mean of gradients."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the running mean of squared gradients."""
    layer_decay: float = Field(0.9, gt=0, le=1)
    """Factor of the learning rate from one block to the one below it."""
    patch_embed_lr_factor: float = Field(0.2, gt=0, le=FACTOR_LIMIT)
    """Factor of the patch embedding's learning rate, on top of the layer decay."""
    clip: float = Field(3.0, gt=0, le=1e9)
    """Largest L2 norm of the gradients of each module: backbone, head, Patch Matching Module."""


class ParameterGroup(NamedTuple):
    """Factors by which the schedules apply to a parameter."""

    lr_multiplier: float
    wd_multiplier: float
    is_last_layer: bool
    is_pmm: bool


def parameter_group(name: str, depth: int, settings: OptimizerSettings) -> ParameterGroup:
    """The group of the parameter called `name` of a `TCoRe` whose backbone has `depth` blocks.

    Tokens, positions and patch embedding are layer 0, block i is layer i + 1, everything else layer depth + 1. Biases,
    norms and LayerScale have no weight decay, except for the input biases of the PMM's attentions (released code).
    """
    block = re.search(r"backbone\.blocks\.(\d+)\.", name)
    layer = int(block[1]) + 1 if block else depth + 1
    if re.search(r"backbone\.(cls_token|pos_embed|register_tokens|mask_token|patch_embed)", name):
        layer = 0
    lr_multiplier = settings.layer_decay ** (depth + 1 - layer)
    if ".patch_embed." in name:
        lr_multiplier *= settings.patch_embed_lr_factor
    undecayed = name.endswith((".bias", ".gamma")) or "norm" in name
    return ParameterGroup(
        lr_multiplier=lr_multiplier,
        wd_multiplier=0.0 if undecayed else 1.0,
        is_last_layer=".last_layer." in name,
        is_pmm=name.startswith("pmm."),
    )


def build_optimizer(model: TCoRe, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW with one group for each distinct `ParameterGroup`; `apply_schedule` sets the learning rates."""
    groups: dict[ParameterGroup, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = parameter_group(name, model.settings.backbone.depth, settings)
            groups.setdefault(group, []).append(parameter)
    described: list[dict[str, Any]] = [{"params": members, **group._asdict()} for group, members in groups.items()]
    return torch.optim.AdamW(described, lr=0.0, betas=(settings.beta1, settings.beta2), weight_decay=0.0, fused=True)


def apply_schedule(optimizer: torch.optim.Optimizer, values: StepValues) -> None:
    """Set the learning rate and weight decay of every group for one step."""
    for group in optimizer.param_groups:
        if group["is_pmm"]:
            lr = values.pmm_lr
        elif group["is_last_layer"]:
            lr = values.last_layer_lr
        else:
            lr = values.lr
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = values.weight_decay * group["wd_multiplier"]


def clip_gradients(model: TCoRe, max_norm: float) -> dict[str, Tensor]:
    """Clip the gradients of each module to an L2 norm of `max_norm`; returns the norms before clipping, by module.

    A frozen module has none.
    """
    modules: dict[str, nn.Module] = {"backbone": model.student.backbone, "head": model.student.cls_head}
    if model.student.patch_head:
        modules["patch_head"] = model.student.patch_head
    if model.pmm:
        modules["pmm"] = model.pmm
    trained = {name: module for name, module in modules.items() if any(p.requires_grad for p in module.parameters())}
    norms = {
        name: nn.utils.clip_grad_norm_(module.parameters(), max_norm, foreach=True)  # not the default of sharded ones
        for name, module in trained.items()
    }
    return {name: norm.full_tensor() if isinstance(norm, DTensor) else norm for name, norm in norms.items()}
