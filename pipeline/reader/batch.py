"""The batch that a model sees."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch: b clips, with S = global size, s = local size, P patches in a global crop.

    Crops are ordered by view: view 1 of the b clips, then view 2, and so on. All views are parts of one block of memory
    as DALI wrote it, on the rank's device: nothing is copied, and the block lives as long as any of them.
    """

    global_crops: Tensor
    """(2 b, 3, S, S) float32, normalized by the ImageNet mean and standard deviation."""
    local_crops: Tensor
    """(local crops * b, 3, s, s) float32."""
    auxiliary: tuple[Tensor, ...]
    """Two views (2 b, 3, S, S) float32 of each auxiliary frame: past and future, or one neighbour image. A view beside
    a crop without a mask never reaches the loss and is zeros."""
    masks: Tensor
    """(2 b, P) bool, True where the student's global crop is masked."""
    masked_loss_scale: float = 1.0
    """Masked patches here over their mean in the equal parts of the global batch. A mean over masked patches, times
    this, becomes a mean over the global batch once ranks and micro-batches are averaged."""
    step: int = 0
    """Which global batch this is a part of."""
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """(b,) int64 dataset rows of the clips."""
