"""One training step: micro-batches, gradients, and the update if everything is finite on all ranks."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.reader.batch import Batch
from training.model import TCoRe
from training.optimiser import apply_schedule, clip_gradients
from training.schedules import StepValues
from training.together import largest


class StepResult(NamedTuple):
    """What a step leaves; means over the micro-batches of this rank."""

    terms: dict[str, Tensor]
    """Terms of the objective and their sum, `total`."""
    seen: dict[str, Tensor]
    """What `TCoRe.forward` has seen; `features` are those of all micro-batches."""
    norms: dict[str, Tensor]
    """Gradient norms by module before clipping, equal on all ranks."""
    finite: bool
    """False on all ranks if a loss or a gradient of any rank is not finite; then nothing was updated."""
    signal: int
    """The largest signal number that any rank has noted, 0 for none."""


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
        share = batch.masked_share * int(masks.sum()) / max(masked, 1) / weight
        part = replace(
            batch,
            global_crops=pick(batch.global_crops),
            local_crops=pick(batch.local_crops),
            auxiliary=tuple(pick(frame) for frame in batch.auxiliary),
            masks=masks,
            masked_share=share,
            rows=batch.rows[chosen],
        )
        yield part, weight


def train_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    values: StepValues,
    clip: float,
    micro_batch_size: int | None = None,
    bf16: bool = False,
    signal: int = 0,
) -> StepResult:
    """One step of student, teacher and centres; all ranks call it together. `signal` is what this rank has noted."""
    core: TCoRe = accelerator.unwrap_model(model)
    apply_schedule(optimiser, values)
    terms: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    parts = list(micro_batches(batch, micro_batch_size))
    for number, (part, weight) in enumerate(parts, start=1):
        last = number == len(parts)
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                outputs = model(part, values.teacher_temperature)
            accelerator.backward(weight * outputs.terms["total"])
        for name, term in outputs.terms.items():
            terms[name] = terms.get(name, 0) + weight * term.detach()
        for name, value in outputs.seen.items():
            if name == "features":
                seen[name] = torch.cat([seen[name], value]) if name in seen else value
            else:
                seen[name] = seen.get(name, 0) + weight * value
    norms = clip_gradients(core, clip)
    finite = torch.stack([terms["total"], *norms.values()]).isfinite().all()
    not_finite, signal = largest(accelerator, [int(not finite), signal])
    if not_finite:
        core.forget_pending_centres()
    else:
        optimiser.step()
        core.update_teacher(values.momentum)
        core.apply_centre_update()
    optimiser.zero_grad()
    return StepResult(terms, seen, norms, not not_finite, signal)
