"""One training step: micro-batches, gradients, and the update if everything is finite on all ranks."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.reader.batch import Batch
from training.distributed import all_reduce_max
from training.model import TCoRe
from training.optimizer import apply_schedule, clip_gradients
from training.schedules import StepValues


class StepResult(NamedTuple):
    """Result of a step: means over the micro-batches of this rank."""

    losses: dict[str, Tensor]
    """Losses times their weights and their sum, `total`."""
    diagnostics: dict[str, Tensor]
    """Diagnostics of `TCoRe.forward`; `features` are those of all micro-batches."""
    norms: dict[str, Tensor]
    """Gradient norms by module before clipping, equal on all ranks."""
    finite: bool
    """False on all ranks if a loss or a gradient of any rank is not finite; then nothing was updated."""
    signal: int
    """The all_reduce_max signal number that any rank has noted, 0 for none."""


def random_seed(seed: int, step: int, rank: int) -> int:
    """Seed of one step's random numbers on one rank; a resumed run repeats them."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def micro_batches(batch: Batch, size: int | None) -> Iterator[tuple[Batch, float]]:
    """Cut a rank's batch of b clips into parts of `size` clips, the last one smaller if it must be.

    Yields each part with its weight, its share of the clips: the weighted sum of the parts' losses is the loss of the
    whole (KoLeo aside, which looks for neighbours within a part).
    """
    clips = len(batch.masks) // 2
    masked = int(batch.masks.sum())
    for start in range(0, clips, size or clips):
        chosen = slice(start, start + (size or clips))

        def pick(crops: Tensor, chosen: slice = chosen) -> Tensor:
            return torch.cat([view[chosen] for view in torch.split(crops, clips)]) if len(crops) else crops

        masks = pick(batch.masks)
        weight = len(masks) / len(batch.masks)
        share = batch.masked_loss_scale * int(masks.sum()) / max(masked, 1) / weight
        part = Batch(
            global_crops=pick(batch.global_crops),
            local_crops=pick(batch.local_crops),
            auxiliary=tuple(pick(frame) for frame in batch.auxiliary),
            masks=masks,
            masked_loss_scale=share,
        )
        yield part, weight


def train_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    values: StepValues,
    clip: float,
    micro_batch_size: int | None = None,
    bf16: bool = False,
    signal: int = 0,
) -> StepResult:
    """One step of student, teacher and centers; all ranks call it together. `signal` is what this rank has noted."""
    core: TCoRe = accelerator.unwrap_model(model)
    apply_schedule(optimizer, values)
    losses: dict[str, Tensor] = {}
    diagnostics: dict[str, Tensor] = {}
    parts = list(micro_batches(batch, micro_batch_size))
    for number, (part, weight) in enumerate(parts, start=1):
        last = number == len(parts)
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                outputs = model(part, values.teacher_temperature)
            accelerator.backward(weight * outputs.losses["total"])
        for name, term in outputs.losses.items():
            losses[name] = losses.get(name, 0) + weight * term.detach()
        for name, value in outputs.diagnostics.items():
            if name == "features":
                diagnostics[name] = torch.cat([diagnostics[name], value]) if name in diagnostics else value
            else:
                diagnostics[name] = diagnostics.get(name, 0) + weight * value
    norms = clip_gradients(core, clip)
    finite = torch.stack([losses["total"], *norms.values()]).isfinite().all()
    not_finite, signal = all_reduce_max(accelerator, [int(not finite), signal])
    if not_finite:
        core.forget_pending_centers()
    else:
        optimizer.step()
        core.update_teacher(values.momentum)
        core.apply_center_update()
    optimizer.zero_grad()
    return StepResult(losses, diagnostics, norms, not not_finite, signal)
