"""The batches that training takes."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.sampling.plan import BatchPlan


@dataclass(frozen=True)
class Batch:
    """Inputs of the model for b clips, with S = global size, s = local size, P patches in a global crop.

    Crops are ordered by view: view 1 of the b clips, then view 2, and so on.
    """

    global_crops: Tensor
    """(2 b, 3, S, S) float32, normalized by the ImageNet mean and standard deviation."""
    local_crops: Tensor
    """(local crops * b, 3, s, s) float32."""
    auxiliary: tuple[Tensor, ...]
    """Two views (2 b, 3, S, S) float32 of each auxiliary frame: past and future, or one neighbour image. Views for a
    crop without a mask never reach the loss and are zeros."""
    masks: Tensor
    """(2 b, P) bool, True where the student's global crop is masked. On the host, as the plan is."""
    masked_loss_scale: float = 1.0
    """Masked patches of this batch over their mean in the equal parts of the global batch. A mean over masked patches,
    times this, becomes a mean over the global batch once ranks and micro-batches are averaged."""


@dataclass(frozen=True, kw_only=True)
class PlannedBatch(Batch):
    """One rank's part of a global batch, with the plan that it was made from.

    All views share one block of memory on the rank's device, as the back end wrote it; later batches take it once the
    last view is gone.
    """

    plan: BatchPlan
