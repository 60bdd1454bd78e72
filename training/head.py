"""Projection head of CLS and patch tokens: an MLP onto the unit sphere, then weight-normalized prototypes."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.settings import Settings
from training.backbone.vit import initialize_linear
from training.losses import Prototypes


class HeadSettings(Settings):
    """Sizes of the projection head (DINOv2, kept by the released code)."""

    hidden: int = Field(2048, ge=1, le=2**20)
    """Width of the two hidden layers."""
    bottleneck: int = Field(256, ge=1, le=2**16)
    """Width of the normalized projection."""
    prototypes: int = Field(65536, ge=2, le=2**24)
    """Number of prototypes K, the width of the logits."""


class LastLayer(nn.Module):
    """Weight-normalized linear layer without bias: rows `weight_g * weight_v / |weight_v|`."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(settings.prototypes, 1))
        self.weight_v = nn.Parameter(torch.empty(settings.prototypes, settings.bottleneck))
        nn.init.uniform_(self.weight_v, -(settings.bottleneck**-0.5), settings.bottleneck**-0.5)

    @property
    def directions(self) -> Prototypes:
        """The parameters in the form that the losses take."""
        return Prototypes(self.weight_g, self.weight_v)

    @property
    def weight(self) -> Tensor:
        """The K x bottleneck matrix of the linear layer."""
        return self.weight_g * F.normalize(self.weight_v, dim=1)


class ProjectionHead(nn.Module):
    """Maps token rows (N, D) to logits (N, K)."""

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.bottleneck),
        )
        self.mlp.apply(initialize_linear)
        self.last_layer = LastLayer(settings)

    def project(self, x_nd: Tensor) -> Tensor:
        """Unit vectors (N, bottleneck) in float32."""
        return F.normalize(self.mlp(x_nd).float(), dim=-1)

    def forward(self, x_nd: Tensor) -> Tensor:
        """Logits (N, K) in float32."""
        return F.linear(self.project(x_nd), self.last_layer.weight).float()
