"""Patch Matching Module: restores patches of the current crop from an auxiliary frame (paper, section 3.4).

Shape letters: B crops, P patches of the current crop, Q patches of the auxiliary frame, D width.
"""

from typing import NamedTuple

from pydantic import Field
from torch import Tensor, nn

from pipeline.settings import FACTOR_LIMIT, Settings


class PmmSettings(Settings):
    """Sizes of the Patch Matching Module, whose width is that of the backbone."""

    modules: int = Field(1, ge=1, le=1000)
    """Number of stacked modules, each with its own weights."""
    heads: int = Field(16, ge=1, le=2**16)
    """Heads of both attentions, a divisor of the backbone's width (released code)."""
    cross_attention_factor: float = Field(1.0, ge=0, le=FACTOR_LIMIT)
    """Factor of the cross-attention before the skip connection (released code: 4; not in the paper)."""


class AttentionMaps(NamedTuple):
    """Attention weights of one module, averaged over heads; rows sum to 1."""

    cross: Tensor  # (B, P, Q): current patch to auxiliary patch
    self_: Tensor  # (B, P, P): current patch to current patch


class PatchMatchingLayer(nn.Module):
    """Cross-attention, self-attention and a linear layer, each with a skip connection and LayerNorm after it."""

    def __init__(self, width: int, settings: PmmSettings) -> None:
        super().__init__()
        self.factor = settings.cross_attention_factor
        self.cross_attn = nn.MultiheadAttention(width, settings.heads, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, settings.heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, s_bpd: Tensor, a_bqd: Tensor, with_maps: bool = False) -> tuple[Tensor, AttentionMaps | None]:
        """Map current patches (B, P, D) and auxiliary patches (B, Q, D) to (B, P, D)."""
        matched, cross = self.cross_attn(s_bpd, a_bqd, a_bqd, need_weights=with_maps)
        x_bpd = self.norm1(self.factor * matched + s_bpd)
        mixed, self_ = self.self_attn(x_bpd, x_bpd, x_bpd, need_weights=with_maps)
        y_bpd = self.norm2(mixed + x_bpd)
        z_bpd = self.norm3(self.linear(y_bpd) + y_bpd)
        return z_bpd, AttentionMaps(cross, self_) if with_maps else None


class PatchMatching(nn.Module):
    """Stacked patch matching layers, shared by all auxiliary frames."""

    def __init__(self, width: int, settings: PmmSettings) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PatchMatchingLayer(width, settings) for _ in range(settings.modules))

    def forward(self, current_bpd: Tensor, auxiliary_bqd: Tensor) -> Tensor:
        """Restore the patches (B, P, D) of the current crops from auxiliary patches (B, Q, D)."""
        for layer in self.layers:
            current_bpd, _ = layer(current_bpd, auxiliary_bqd)
        return current_bpd

    def attention_maps(self, current_bpd: Tensor, auxiliary_bqd: Tensor) -> list[AttentionMaps]:
        """The attention maps of every module for the inputs of `forward`."""
        maps = []
        for layer in self.layers:
            current_bpd, layer_maps = layer(current_bpd, auxiliary_bqd, with_maps=True)
            maps.append(layer_maps)
        return maps
