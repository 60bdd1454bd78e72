"""Running center of the teacher's logits, which keeps the targets from collapsing to a few prototypes."""

import torch
from torch import Tensor, distributed, nn


class Center(nn.Module):
    """Exponential moving average of the mean teacher logit, updated once a step by `apply_pending`.

    The mean is that of the global batch: sums and counts are added over micro-batches and ranks.
    """

    center: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(shape))
        self._pending: Tensor | None = None  # (K + 1,): sum of logits, number of rows; not in checkpoints

    @property
    def flat(self) -> Tensor:
        """The center as a vector (K,)."""
        return self.center.flatten()

    @torch.no_grad()
    def add(self, sum_k: Tensor, rows: int) -> None:
        """Add the teacher logits of a micro-batch: their sum (K,) over `rows` rows."""
        added = torch.cat([sum_k.float(), sum_k.new_full((1,), rows, dtype=torch.float32)])
        self._pending = added if self._pending is None else self._pending + added

    def forget_pending(self) -> None:
        """Drop the logits added since the last call of `apply_pending`."""
        self._pending = None

    @torch.no_grad()
    def apply_pending(self) -> None:
        """Move the center toward the mean of the rows added since the last call; all ranks call this together."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(pending)
        total, count = pending[:-1], pending[-1]
        moved = self.center.lerp((total / count).view_as(self.center), 1 - self.momentum)
        self.center.copy_(torch.where(count > 0, moved, self.center))
