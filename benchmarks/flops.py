"""Floating-point operations of a training step, and what a GPU can do at most: for model FLOP utilization (MFU)."""

from pipeline.sampling.views import ViewSettings
from training.backbone.vit import VitSettings
from training.model import TCoReSettings

PEAK_FLOPS = (
    ("MIG", None),  # a slice of a GPU has a part of its peak
    ("B200", 2250e12),
    ("H200 NVL", 835e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
)
"""Dense bf16 FLOP/s that the maker states, by a part of the device's name; the first that fits counts."""


def peak_flops(device: str) -> float | None:
    """Dense bf16 FLOP/s of the GPU that calls itself `device`; None for one that is not in the table."""
    return next((flops for name, flops in PEAK_FLOPS if name in device), None)


def block_flops(vit: VitSettings, patches: int) -> float:
    """Floating-point operations of an image of so many patches through the blocks: 2 n a b for (n, a) times (a, b)."""
    tokens = 1 + vit.registers + patches
    return 2 * vit.depth * tokens * ((4 + 2 * vit.mlp_ratio) * vit.width**2 + 2 * tokens * vit.width)


def embedding_flops(vit: VitSettings, patches: int) -> float:
    """Floating-point operations of the patch embedding, counted likewise."""
    return 2 * patches * 3 * vit.patch_size**2 * vit.width


def step_flops(settings: TCoReSettings, batch_size: int, masked_loss_scale: float = 0.15) -> float:
    """Floating-point operations of a training step's matrix products on `batch_size` clips with two auxiliary frames.

    A product of (n, a) and (a, b) counts 2 n a b; a part with gradients counts three times, once forward and twice
    backward; recomputation, the optimizer and everything element by element count nothing. With N tokens in a crop
    and P patches, D wide, the parts are

    - a crop through the backbone: 2 N ((4 + 2 r) D^2 + 2 N D) in each block, r the ratio of the MLP, times the share
      of crops that stochastic depth keeps in the student; and the patch embedding, whose images have no gradient;
    - student: 2 global and all local crops, 3 times; teacher: 2 global crops, once; auxiliary branch: both views of
      both frames for the half of the crops that have masks, once;
    - Patch Matching Module: 2 P (9 D^2 + 4 P D) for those crops of both frames, 3 times;
    - head and prototypes: a row each for all CLS tokens and for each masked patch, of the teacher once, of the student
      3 times, there for both frames.

    `masked_loss_scale` is the mean share of masked patches: half of the crops times ratios of 0.1 to 0.5.
    """
    vit, head, views = settings.backbone, settings.head, ViewSettings()
    patches, local_patches = ((size // vit.patch_size) ** 2 for size in (views.global_size, views.local_size))
    kept = 1 - vit.drop_path
    crops, local, auxiliary = 2 * batch_size, views.local_crops * batch_size, 2 * batch_size  # half of 2 x 2 views
    rows = crops * patches * masked_loss_scale
    large, small = block_flops(vit, patches), block_flops(vit, local_patches)
    embedded, embedded_small = embedding_flops(vit, patches), embedding_flops(vit, local_patches)
    mlp = 2 * (vit.width * head.hidden + head.hidden**2 + head.hidden * head.bottleneck)
    last = 2 * head.bottleneck * head.prototypes
    matching = 2 * settings.pmm.modules * patches * (9 * vit.width**2 + 4 * patches * vit.width)
    return float(
        3 * kept * (crops * large + local * small)
        + 2 * (crops * embedded + local * embedded_small)
        + crops * (large + embedded)
        + auxiliary * (kept * large + embedded)
        + 3 * auxiliary * matching
        + (mlp + last) * (crops + rows)
        + 3 * (mlp + last) * (crops + local + 2 * rows)
    )


def utilization(settings: TCoReSettings, batch_size: int, seconds: float, device: str) -> float | None:
    """Share of the device's bf16 peak that steps of `seconds` reach (MFU); None where that peak is not known."""
    peak = peak_flops(device)
    return None if peak is None else step_flops(settings, batch_size) / seconds / peak
