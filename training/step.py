"""One training step in two halves: the gradients of a batch, and the update if they are finite on all ranks."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.reader.batch import Batch
from training.model import TCoRe
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
    whole batch, except for KoLeo, which looks for neighbours within a part.
    """
    clips = len(batch.masks) // 2
    masked = int(batch.masks.sum())
    for start in range(0, clips, size or clips):
        selected = slice(start, start + (size or clips))

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
    losses: dict[str, Tensor] = {}
    diagnostics: dict[str, Tensor] = {}
    parts = list(micro_batches(batch, settings.micro_batch_size))
    for number, (part, weight) in enumerate(parts, start=1):
        last = number == len(parts)
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.bf16):
                outputs = model(part, teacher_temperature)
            accelerator.backward(weight * outputs.losses["total"])
        for name, loss in outputs.losses.items():
            losses[name] = losses.get(name, 0) + weight * loss.detach()
        for name, value in outputs.diagnostics.items():
            if name == "features":
                diagnostics[name] = torch.cat([diagnostics[name], value]) if name in diagnostics else value
            else:
                diagnostics[name] = diagnostics.get(name, 0) + weight * value
    return StepResult(losses, diagnostics, clip_gradients(accelerator.unwrap_model(model), settings.clip))


def optimizer_step(model: TCoRe, optimizer: torch.optim.Optimizer, values: StepValues) -> None:
    """Update student, teacher and centers; all ranks call this together. The gradients are cleared."""
    apply_schedule(optimizer, values)
    optimizer.step()
    model.update_teacher(values.momentum)
    model.apply_center_update()
    optimizer.zero_grad()


def skip_step(model: TCoRe, optimizer: torch.optim.Optimizer) -> None:
    """Drop the gradients and the teacher logits of a step that is not finite."""
    model.forget_pending_centers()
    optimizer.zero_grad()
