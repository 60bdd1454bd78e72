"""Running center of the teacher's logits, which keeps the targets from collapsing onto few prototypes."""

import torch
from torch import Tensor, distributed, nn


class Center(nn.Module):
    """Exponential mean of teacher logits; what a step sees enters only when `apply` is called after it.

    The mean is taken over all rows of the global batch: over micro-batches and ranks by sums and counts.
    """

    center: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(shape))
        self._pending: Tensor | None = None  # (K + 1,): sum of logits, number of rows; never part of a checkpoint

    @property
    def flat(self) -> Tensor:
        """The center as a vector (K,)."""
        return self.center.flatten()

    @torch.no_grad()
    def add(self, sum_k: Tensor, rows: int) -> None:
        """Take note of a micro-batch's teacher logits: their sum (K,) over so many rows."""
        diagnostics = torch.cat([sum_k.float(), sum_k.new_full((1,), rows, dtype=torch.float32)])
        self._pending = diagnostics if self._pending is None else self._pending + diagnostics

    def forget_pending(self) -> None:
        """Drop what was added since the last call of `apply_pending`."""
        self._pending = None

    @torch.no_grad()
    def apply_pending(self) -> None:
        """Move the center towards the mean of all rows since the last call; all ranks call it together."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(pending)
        total, count = pending[:-1], pending[-1]
        moved = self.center.lerp((total / count).view_as(self.center), 1 - self.momentum)
        self.center.copy_(torch.where(count > 0, moved, self.center))
