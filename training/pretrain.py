"""`accelerate launch training/pretrain.py --config configs/NAME.yaml`: the pre-training loop."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from pydantic import Field
from torch import Tensor

from pipeline.dataset import read_manifest
from pipeline.files import write_bytes
from pipeline.reader.batch import Batch
from pipeline.reader.loader import Loader, ReaderSettings
from pipeline.settings import Command, Settings, UserError, run_command
from training.checkpoint import CONFIG, checkpoints, load_checkpoint, save_checkpoint
from training.metrics import Progress
from training.model import TCoRe, TCoReSettings
from training.optimiser import OptimiserSettings, apply_schedule, build_optimiser, clip_gradients
from training.schedules import ScheduleSettings, StepValues, build_schedules


class TrainSettings(Settings):
    """Length, batch and bookkeeping of a run."""

    total_batch_size: int = Field(256, ge=1)
    """Clips in the global batch, over all ranks."""
    epochs: int = Field(400, ge=1)
    """Length of the run."""
    steps_per_epoch: int | None = Field(None, ge=1)
    """Default: as many whole batches as the data set holds. The schedules count in epochs of this length."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights and of stochastic depth."""
    precision: Literal["no", "bf16"] = "no"
    """Automatic mixed precision of the forward pass."""
    log_every: int = Field(10, ge=1)
    """Steps between two lines of metrics."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between two checkpoints; the last step is always saved."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that stay on disk."""


class PretrainCommand(Command):
    """Pre-train T-CoRe on shards, through `accelerate launch`. The same command continues from its last checkpoint.

    OUT holds config.json, metrics.jsonl, tensorboard/ and checkpoints/step-N/.
    """

    program: ClassVar[str] = "accelerate launch training/pretrain.py"

    out: Path
    """Folder of the run."""
    data: ReaderSettings
    """Shards and what is drawn from them."""
    model: TCoReSettings = TCoReSettings()
    """Backbone, heads, patch matching module and losses."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """AdamW and its parameter groups."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Learning rate, weight decay, EMA and temperature over the run."""
    train: TrainSettings = TrainSettings()
    """Length, batch and bookkeeping."""


FREE_SETTINGS = frozenset(
    {
        "data.shards",  # the shards may have moved; their hash may not change
        "data.neighbours",
        "data.threads",
        "data.prefetch",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
    }
)
"""Settings that a continued run may change."""


def run_config(command: PretrainCommand, dataset_hash: str) -> dict[str, Any]:
    """What a run is made from, as recorded in its folder: all settings, with the shards named by their content."""
    config = command.model_dump(mode="json", exclude={"config", "out"})
    return {**config, "dataset_hash": dataset_hash}


def check_run_folder(out: Path, config: dict[str, Any]) -> None:
    """Make sure that the checkpoints in `out`, if any, are of a run with `config`, and record it there.

    Settings that cannot change the result (`FREE_SETTINGS`) may differ.

    Raises:
        UserError: they are of another run (names the settings that differ), or the folder cannot be written.
    """
    path = out / CONFIG
    try:
        if checkpoints(out):
            recorded, asked = (flatten(values) for values in (json.loads(path.read_text()), config))
            keys = sorted((recorded.keys() | asked.keys()) - FREE_SETTINGS)
            different = [
                f"{key} = {recorded.get(key)} there, {asked.get(key)} here"
                for key in keys
                if recorded.get(key) != asked.get(key)
            ]
            if different:
                raise UserError(f"{out} holds a run with other settings: {'; '.join(different)}. Choose another --out")
        write_bytes(path, json.dumps(config, indent=2).encode() + b"\n")
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON ({error}): restore it or choose another --out") from error
    except OSError as error:
        raise UserError(f"cannot write the run folder {out}: {error.strerror}") from error


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def check_shapes(command: PretrainCommand) -> None:
    """Make sure that reader and model agree.

    Raises:
        UserError: names the two settings that contradict each other.
    """
    views, backbone = command.data.views, command.model.backbone
    if command.data.patch_size != backbone.patch_size:
        raise UserError(
            f"data.patch_size = {command.data.patch_size} and model.backbone.patch_size = {backbone.patch_size} "
            "must be equal"
        )
    for name, size in (("global_size", views.global_size), ("local_size", views.local_size)):
        if size % backbone.patch_size:
            raise UserError(f"data.views.{name} = {size} must be a multiple of the patch size {backbone.patch_size}")
    has_auxiliary = bool(command.data.neighbours or command.data.sandwich.auxiliary)
    if has_auxiliary != command.model.auxiliary_branch:
        raise UserError(
            f"model.auxiliary_branch = {command.model.auxiliary_branch} does not fit data.sandwich.auxiliary = "
            f"{list(command.data.sandwich.auxiliary)}: without the branch the list must be empty, with it not"
        )


def random_seed(seed: int, step: int, rank: int) -> int:
    """Seed of one step's random numbers on one rank; a resumed run repeats them."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def check_finite(terms: dict[str, Tensor], step: int) -> None:
    """Stop a run whose loss is no number.

    Raises:
        UserError: names the step and the terms.
    """
    if not bool(terms["total"].isfinite()):
        broken = [name for name, term in terms.items() if not bool(term.isfinite()) and name != "total"]
        raise UserError(f"the loss is not finite in step {step}, in the terms {', '.join(broken)}: lower the rate")


def train_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    values: StepValues,
    clip: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of student, teacher and centres; returns the terms of the loss and the gradient norms by module."""
    core: TCoRe = accelerator.unwrap_model(model)
    apply_schedule(optimiser, values)
    terms: dict[str, Tensor] = model(batch, values.teacher_temperature)
    check_finite(terms, batch.step)
    accelerator.backward(terms["total"])
    norms = clip_gradients(core, clip)
    optimiser.step()
    optimiser.zero_grad()
    core.update_teacher(values.momentum)
    core.apply_centre_update()
    return terms, norms


def main(command: PretrainCommand) -> None:
    """Train to the end, from the newest checkpoint if there is one."""
    train, out = command.train, command.out
    check_shapes(command)
    manifest = read_manifest(command.data.shards)
    project = ProjectConfiguration(str(out), logging_dir=str(out))
    accelerator = Accelerator(mixed_precision=train.precision, log_with="tensorboard", project_config=project)
    if accelerator.device.type == "cpu":  # launchers leave one thread to a rank
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // accelerator.num_processes))
    config = run_config(command, manifest.dataset_hash)
    steps_per_epoch = train.steps_per_epoch or max(1, manifest.samples // train.total_batch_size)
    last_step = train.epochs * steps_per_epoch
    schedules = build_schedules(command.schedule, train.epochs, steps_per_epoch, train.total_batch_size)
    torch.manual_seed(train.seed)
    core = TCoRe(command.model)
    model, optimiser = accelerator.prepare(core, build_optimiser(core, command.optimiser))
    rank, ranks = accelerator.process_index, accelerator.num_processes
    if accelerator.is_main_process:
        check_run_folder(out, config)
    found = checkpoints(out)
    first_step = load_checkpoint(found[-1], core, optimiser) if found else 0
    if first_step >= last_step:
        accelerator.print(f"the run in {out} is finished: {found[-1]}")
        return

    reader = Loader(command.data, train.total_batch_size, first_step, last_step, rank, ranks, accelerator.device)
    parameters = sum(parameter.numel() for parameter in core.student.parameters()) / 1e6
    accelerator.print(
        f"{manifest.samples} samples, steps {first_step} to {last_step} of {train.total_batch_size} samples, "
        f"{parameters:.1f} M student parameters, {ranks} x {accelerator.device.type}"
    )
    progress = Progress(accelerator, out, first_step, last_step, train.total_batch_size, train.log_every)
    with reader, contextlib.closing(progress):
        for step in range(first_step, last_step):
            asked = time.perf_counter()
            batch = next(reader)
            progress.waited(time.perf_counter() - asked)
            values = schedules.at(step)
            torch.manual_seed(random_seed(train.seed, step, rank))
            terms, norms = train_step(accelerator, model, optimiser, batch, values, command.optimiser.clip)
            others = {f"gradient_norm/{name}": float(norm) for name, norm in norms.items()}
            others |= {f"schedule/{name}": value for name, value in values._asdict().items()}
            progress.step_done(step + 1, terms, others)
            if (step + 1) % train.checkpoint_every == 0 or step + 1 == last_step:
                if accelerator.is_main_process:
                    save_checkpoint(out, step + 1, core, optimiser, config, train.keep_checkpoints)
                accelerator.wait_for_everyone()
    accelerator.print(f"finished: {checkpoints(out)[-1]}")


if __name__ == "__main__":
    run_command(PretrainCommand, main)
