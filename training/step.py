"""The parts of a training step: the gradients of a batch, and the update if they are finite on all ranks.

They only queue work for the device. The host waits once in a step, for what the ranks agree on (`training.trainer`).
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.profiler import record_function

from pipeline.reader.batch import Batch
from training.optimizer import apply_schedule, clip_gradients
from training.schedules import StepValues


class StepSettings(NamedTuple):
    """How the gradients of a step are computed."""

    clip: float
    """Largest L2 norm of each module's gradients."""
    micro_batch_size: int | None = None
    """Clips in a forward pass; default: all that the rank has."""
    bf16: bool = False
    """Whether the forward pass runs under bfloat16 autocast."""


class StepResult(NamedTuple):
    """Losses and gradient norms of one rank, means over its micro-batches."""

    losses: dict[str, Tensor]
    """Losses times their weights and their sum, `total`."""
    diagnostics: dict[str, Tensor]
    """Diagnostics of `TCoRe.forward`; `features` are those of all micro-batches."""
    norms: dict[str, Tensor]
    """Gradient norms by module before clipping, equal on all ranks."""

    @property
    def finite(self) -> Tensor:
        """Whether the total loss of this rank and all gradient norms are finite; a scalar on the device."""
        return torch.stack([self.losses["total"], *self.norms.values()]).isfinite().all()


def random_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the random numbers of one step on one rank, so that a resumed run repeats them."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def micro_batches(batch: Batch, size: int | None) -> Iterator[tuple[Batch, float]]:
    """Split a rank's batch of b clips into parts of `size` clips; the last one may be smaller.

    Yields each part and its weight, its fraction of the clips: the weighted sum of the parts' losses is the loss of the
    whole batch, except for KoLeo, which looks for neighbours within a part. A single part is the batch itself.
    """
    clips = len(batch.masks) // 2
    if size is None or size >= clips:
        yield batch, 1.0
        return
    masked = int(batch.masks.sum())
    for start in range(0, clips, size):
        selected = slice(start, start + size)

        def pick(crops: Tensor, selected: slice = selected) -> Tensor:
            return torch.cat([view[selected] for view in torch.split(crops, clips)]) if len(crops) else crops

        masks = pick(batch.masks)
        weight = len(masks) / len(batch.masks)
        loss_scale = batch.masked_loss_scale * int(masks.sum()) / max(masked, 1) / weight
        part = Batch(
            global_crops=pick(batch.global_crops),
            local_crops=pick(batch.local_crops),
            auxiliary=tuple(pick(frame) for frame in batch.auxiliary),
            masks=masks,
            masked_loss_scale=loss_scale,
        )
        yield part, weight


def forward_backward_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    batch: Batch,
    teacher_temperature: float,
    settings: StepSettings,
) -> StepResult:
    """Compute the losses and clipped gradients of a batch; all ranks call this together, and nothing is updated."""
    clips = len(batch.masks) // 2
    count = -(-clips // (settings.micro_batch_size or clips))
    losses, diagnostics, weights = [], [], []  # of each part
    for number, (part, weight) in enumerate(micro_batches(batch, settings.micro_batch_size), start=1):
        with contextlib.nullcontext() if number == count else accelerator.no_sync(model):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.bf16):
                outputs = model(part, teacher_temperature)
            with record_function("backward"):
                accelerator.backward(weight * outputs.losses["total"])
        losses.append({name: loss.detach() for name, loss in outputs.losses.items()})
        diagnostics.append(outputs.diagnostics)
        weights.append(weight)
    features = torch.cat([values.pop("features") for values in diagnostics])
    return StepResult(
        losses=_weighted_sums(losses, weights),
        diagnostics={**_weighted_sums(diagnostics, weights), "features": features},
        norms=clip_gradients(accelerator.unwrap_model(model), settings.clip),
    )


def _weighted_sums(parts: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    """The weighted sum of each scalar over the parts of a batch."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: torch.stack([weight * part[name] for part, weight in zip(parts, weights, strict=True)]).sum()
        for name in parts[0]
    }


@record_function("optimizer")
def update_student(optimizer: torch.optim.Optimizer, values: StepValues, skipped: Tensor) -> None:
    """Take the optimizer's step and clear the gradients.

    Where `skipped`, a float32 scalar on the device, is 1, parameters and the optimizer's state stay as they are: fused
    optimizers read it on the device, so the host can queue the update before it knows.
    """
    apply_schedule(optimizer, values)
    optimizer.found_inf = skipped  # type: ignore[attr-defined]  # as `torch.amp.GradScaler` passes it
    optimizer.step()
    optimizer.found_inf = None  # type: ignore[attr-defined]
    optimizer.zero_grad()
