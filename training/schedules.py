"""Schedules as pure functions of the step; defaults: paper, section 4.1 and appendix B.3, and released code."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from pipeline.settings import FACTOR_LIMIT, Settings, UserError


class ScheduleSettings(Settings):
    """Schedules over the run; lengths are in epochs."""

    base_lr: float = Field(0.002, gt=0, le=FACTOR_LIMIT)
    """Learning rate for a global batch of 1024 clips, scaled by sqrt(batch / 1024): 1e-3 for 256 clips."""
    final_lr: float = Field(1e-6, ge=0, le=FACTOR_LIMIT)
    """Learning rate at the end, of the Patch Matching Module too."""
    warmup_epochs: int = Field(20, ge=0, le=1_000_000)
    """Epochs of the linear warm-up of the learning rates from zero."""
    pmm_lr_factor: float = Field(0.1, ge=0, le=FACTOR_LIMIT)
    """Learning rate of the Patch Matching Module after the warm-up, relative to the rest."""
    freeze_last_layer_epochs: int = Field(1, ge=0, le=1_000_000)
    """Epochs with learning rate zero for the prototypes."""
    weight_decay: float = Field(0.04, ge=0, le=FACTOR_LIMIT)
    """Weight decay at the start."""
    final_weight_decay: float = Field(0.4, ge=0, le=FACTOR_LIMIT)
    """Weight decay at the end of a half cosine."""
    momentum: float = Field(0.992, ge=0, le=1)
    """EMA momentum of the teacher at the start."""
    final_momentum: float = Field(1.0, ge=0, le=1)
    """EMA momentum of the teacher at the end of a half cosine."""
    teacher_temperature: float = Field(0.04, gt=0, le=FACTOR_LIMIT)
    """Teacher temperature at the start."""
    final_teacher_temperature: float = Field(0.07, gt=0, le=FACTOR_LIMIT)
    """Teacher temperature after its warm-up."""
    teacher_temperature_epochs: int = Field(30, ge=0, le=1_000_000)
    """Epochs of the linear warm-up of the teacher temperature."""


class StepValues(NamedTuple):
    """Values of the schedules in one step."""

    lr: float
    last_layer_lr: float
    pmm_lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float


@dataclass(frozen=True)
class Ramp:
    """A linear warm-up from `start` to `peak`, then a half cosine from `peak` to `final`; `final` after the end."""

    peak: float
    final: float
    steps: int
    start: float = 0.0
    warmup: int = 0

    def at(self, step: int) -> float:
        """Value at a step counted from 0. The last warm-up step and the first after it both have the peak."""
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / max(self.warmup - 1, 1)
        if step >= self.steps:
            return self.final
        phase = math.pi * (step - self.warmup) / (self.steps - self.warmup)
        return self.final + 0.5 * (self.peak - self.final) * (1 + math.cos(phase))


@dataclass(frozen=True)
class Schedules:
    """All schedules of a run."""

    lr: Ramp
    pmm_lr: Ramp
    weight_decay: Ramp
    momentum: Ramp
    teacher_temperature: Ramp
    frozen_steps: int

    def at(self, step: int) -> StepValues:
        """Values of the step with this number, counted from 0."""
        lr = self.lr.at(step)
        return StepValues(
            lr=lr,
            last_layer_lr=0.0 if step < self.frozen_steps else lr,
            pmm_lr=self.pmm_lr.at(step),
            weight_decay=self.weight_decay.at(step),
            momentum=self.momentum.at(step),
            teacher_temperature=self.teacher_temperature.at(step),
        )


def frozen_steps(frozen_epochs: int | None, epochs: int, steps_per_epoch: int) -> int:
    """Number of steps at the start of a run in which the backbone is frozen.

    Raises:
        UserError: it would never be trained.
    """
    if (frozen_epochs or 0) >= epochs:
        raise UserError(
            f"model.freeze_backbone_epochs = {frozen_epochs} leaves none of the {epochs} epochs of the run to train "
            "the backbone: freeze it for fewer, or lengthen the run"
        )
    return (frozen_epochs or 0) * steps_per_epoch


def build_schedules(settings: ScheduleSettings, epochs: int, steps_per_epoch: int, total_batch_size: int) -> Schedules:
    """Schedules of a run of `epochs * steps_per_epoch` steps with `total_batch_size` clips in the global batch.

    Raises:
        UserError: the warm-up is longer than the run.
    """
    if settings.warmup_epochs > epochs:
        raise UserError(
            f"schedule.warmup_epochs = {settings.warmup_epochs} is longer than the run of {epochs} epochs: "
            "shorten the warm-up or lengthen the run"
        )
    steps = epochs * steps_per_epoch
    warmup = settings.warmup_epochs * steps_per_epoch
    temperature_steps = settings.teacher_temperature_epochs * steps_per_epoch
    lr = settings.base_lr * math.sqrt(total_batch_size / 1024)
    return Schedules(
        lr=Ramp(lr, settings.final_lr, steps, warmup=warmup),
        pmm_lr=Ramp(lr * settings.pmm_lr_factor, settings.final_lr, steps, warmup=warmup),
        weight_decay=Ramp(settings.weight_decay, settings.final_weight_decay, steps),
        momentum=Ramp(settings.momentum, settings.final_momentum, steps),
        teacher_temperature=Ramp(
            peak=settings.final_teacher_temperature,
            final=settings.final_teacher_temperature,
            steps=temperature_steps,
            start=settings.teacher_temperature,
            warmup=temperature_steps,
        ),
        frozen_steps=settings.freeze_last_layer_epochs * steps_per_epoch,
    )
