"""Vision Transformer backbone: CLS token, register tokens, LayerScale, batch-subset stochastic depth.

Parameter names are those of DINOv2 with registers, so that weights can be exchanged with other code.
Shape letters: B images, P patches, R registers, D width, N = 1 + R + P tokens.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.settings import FACTOR_LIMIT, Settings

ARCHITECTURES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 6, "heads": 3},  # half the depth of ViT-Ti, for demonstrations on a CPU
    "small": {"width": 384, "depth": 12, "heads": 6},  # ViT-S/16
    "base": {"width": 768, "depth": 12, "heads": 12},  # ViT-B/16
    "large": {"width": 1024, "depth": 24, "heads": 16},  # ViT-L/16
}


class VitSettings(Settings):
    """Sizes of the backbone; defaults: ViT-S/16, registers and drop path of the released code."""

    architecture: Literal["tiny", "small", "base", "large"] | None = None
    """Sets width, depth and heads by name. Default: they are given as numbers."""
    width: int = Field(384, ge=1, le=2**16)
    """Embedding width D."""
    depth: int = Field(12, ge=1, le=1000)
    """Number of blocks."""
    heads: int = Field(6, ge=1, le=2**16)
    """Attention heads, a divisor of width."""
    patch_size: int = Field(16, ge=1, le=4096)
    """Side of a square patch, pixels."""
    registers: int = Field(4, ge=0, le=1000)
    """Register tokens, which have no position."""
    image_size: int = Field(224, ge=1, le=2**16)
    """Image side of the position table, pixels; for other sizes it is interpolated."""
    mlp_ratio: float = Field(4.0, gt=0, le=1000)
    """Hidden width of the MLP over D."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Feed-forward form: two layers with a GELU, or a gated SiLU unit (DINOv2 ViT-g)."""
    norm_eps: float = Field(1e-6, gt=0, le=1)
    """Epsilon of the LayerNorms."""
    class_token: bool = True
    """Whether there is a CLS token; without it, the mean of the patch tokens takes its place in the output."""
    interpolation: Literal["antialias", "plain", "offset"] = "antialias"
    """Bicubic interpolation of the position table: with antialiasing, without, or as DINO and DINOv2 do it: without,
    by scale factors of sides that are 0.1 patches longer."""
    layer_scale: float = Field(1e-5, gt=0, le=FACTOR_LIMIT)
    """Initial value of the LayerScale factors."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Fraction of the images that skip a residual branch in training (stochastic depth)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_sizes(cls, values: Any) -> Any:  # noqa: ANN401
        if isinstance(values, dict):
            return {**ARCHITECTURES.get(str(values.get("architecture")), {}), **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> "VitSettings":
        named = ARCHITECTURES.get(self.architecture or "", {})
        for key, value in named.items():
            if getattr(self, key) != value:
                raise ValueError(
                    f"architecture {self.architecture} has {key} {value}, not {getattr(self, key)}; "
                    "leave out the numbers, or the name (architecture None)"
                )
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} must divide width = {self.width}")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size = {self.patch_size} must divide image_size = {self.image_size}")
        return self

    @property
    def side(self) -> int:
        """Side of the position table, patches."""
        return self.image_size // self.patch_size

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return round(self.width * self.mlp_ratio)


class Tokens(NamedTuple):
    """Output of the backbone, after the final LayerNorm."""

    cls: Tensor  # (B, D); without a CLS token, the mean of the patches
    registers: Tensor  # (B, R, D)
    patches: Tensor  # (B, P, D), row-major over the grid


class LayerScale(nn.Module):
    """One learned factor for each channel of a residual branch."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x_bnd: Tensor) -> Tensor:
        """Scale the channels of tokens (B, N, D)."""
        return x_bnd * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_bnd: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        b, n, d = x_bnd.shape
        query, key, value = self.qkv(x_bnd).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, n, d))
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_bnd: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x_bnd)))
        return out


class SwiGlu(nn.Module):
    """Gated linear unit: the SiLU of one projection times another, then a linear layer (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x_bnd: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        gate, value = self.w12(x_bnd).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class Block(nn.Module):
    """Pre-norm transformer block whose two residual branches may run on a subset of the images."""

    def __init__(self, settings: VitSettings) -> None:
        super().__init__()
        width = settings.width
        self.norm1 = nn.LayerNorm(width, eps=settings.norm_eps)
        self.attn = Attention(width, settings.heads)
        self.ls1 = LayerScale(width, settings.layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=settings.norm_eps)
        self.mlp = (SwiGlu if settings.mlp == "swiglu" else Mlp)(width, settings.hidden)
        self.ls2 = LayerScale(width, settings.layer_scale)

    def forward(self, x_bnd: Tensor, kept: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D).

        Args:
            x_bnd: tokens.
            kept: indices of the images on which the attention branch and the MLP branch are evaluated; a branch is
                then added with the factor B / kept, which keeps its mean over draws. None evaluates all images.
        """
        if kept is None:
            x_bnd = x_bnd + self.ls1(self.attn(self.norm1(x_bnd)))
            x_bnd = x_bnd + self.ls2(self.mlp(self.norm2(x_bnd)))
        else:
            attended, transformed = kept
            branch = self.ls1(self.attn(self.norm1(x_bnd.index_select(0, attended))))
            x_bnd = x_bnd.index_add(0, attended, branch.to(x_bnd.dtype), alpha=len(x_bnd) / len(attended))
            branch = self.ls2(self.mlp(self.norm2(x_bnd.index_select(0, transformed))))
            x_bnd.index_add_(0, transformed, branch.to(x_bnd.dtype), alpha=len(x_bnd) / len(transformed))
        return x_bnd


class PatchEmbed(nn.Module):
    """Linear embedding of square patches."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to patch embeddings (B, P, D)."""
        out: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return out


class VisionTransformer(nn.Module):
    """The backbone; `settings` are those it was built from."""

    def __init__(self, settings: VitSettings) -> None:
        super().__init__()
        self.settings = settings
        width, class_tokens = settings.width, int(settings.class_token)
        self.cls_token = nn.Parameter(torch.empty(1, class_tokens, width))
        self.pos_embed = nn.Parameter(torch.empty(1, class_tokens + settings.side**2, width))
        self.register_tokens = nn.Parameter(torch.empty(1, settings.registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(settings.patch_size, width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(width, eps=settings.norm_eps)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.register_tokens, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks.apply(initialize_linear)

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Tokens:
        """Compute the tokens of images.

        Args:
            images: (B, 3, H, W), ImageNet-normalized; H and W are multiples of the patch size.
            masks: (B, P) bool; True replaces the patch embedding by the mask token before positions are added.

        Raises:
            ValueError: H or W is not a multiple of the patch size.
        """
        patch_size = self.settings.patch_size
        height, width = images.shape[-2:]
        if height % patch_size or width % patch_size:
            raise ValueError(f"an image of {height}x{width} pixels does not divide into {patch_size}-pixel patches")
        patches_bpd = self.patch_embed(images)
        if masks is not None:
            patches_bpd = torch.where(masks.unsqueeze(-1), self.mask_token.to(patches_bpd.dtype), patches_bpd)
        positions = self.positions(height // patch_size, width // patch_size)
        class_tokens = self.cls_token.shape[1]
        cls_bcd = (self.cls_token + positions[:, :class_tokens]).expand(len(images), -1, -1)
        registers_brd = self.register_tokens.expand(len(images), -1, -1)
        x_bnd = torch.cat([cls_bcd, registers_brd, patches_bpd + positions[:, class_tokens:]], dim=1)
        for block, kept in zip(self.blocks, self._draw_kept(x_bnd), strict=True):
            x_bnd = block(x_bnd, kept)
        x_bnd = self.norm(x_bnd)
        first_patch = class_tokens + self.settings.registers
        patches_bpd = x_bnd[:, first_patch:]
        cls_bd = x_bnd[:, 0] if class_tokens else patches_bpd.mean(1)
        return Tokens(cls_bd, x_bnd[:, class_tokens:first_patch], patches_bpd)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position table (1, 1 + rows * columns, D) for a patch grid: CLS first, then the patches, row-major.

        The learned square table is interpolated bicubically, in float32, as `settings.interpolation` says.
        """
        side, rule, class_tokens = self.settings.side, self.settings.interpolation, self.cls_token.shape[1]
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, class_tokens:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if rule == "offset":
            factors = ((rows + 0.1) / side, (columns + 0.1) / side)
            resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        else:
            resized = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=rule == "antialias")
        patches = resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :class_tokens], patches], dim=1)

    def _draw_kept(self, x_bnd: Tensor) -> Sequence[tuple[Tensor, Tensor] | None]:
        """The images that each block's branches keep, drawn at once."""
        depth, batch = len(self.blocks), len(x_bnd)
        if not self.training or self.settings.drop_path == 0 or not batch:
            return [None] * depth
        size = max(int(batch * (1 - self.settings.drop_path)), 1)
        orders = torch.rand(2, depth, batch, device=x_bnd.device).argsort(dim=-1)[..., :size]
        return list(zip(*(order.unbind() for order in orders), strict=True))


def initialize_linear(module: nn.Module) -> None:
    """Initialize a linear layer as DINOv2 does: truncated normal weights of deviation 0.02, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def random_backbone(settings: VitSettings, seed: int) -> VisionTransformer:
    """An untrained backbone in eval mode, determined by the seed; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(settings).eval()
