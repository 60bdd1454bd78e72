"""`accelerate launch training/pretrain.py --config configs/NAME.yaml`: the pre-training loop."""

import contextlib
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, broadcast_object_list
from pydantic import Field

from evaluation.during_training import DavisDuringTraining, EvalSettings
from pipeline.dataset import read_manifest
from pipeline.reader.loader import Loader, ReaderSettings
from pipeline.reader.plan import plan_batch
from pipeline.settings import Command, Settings, UserError, run_command
from training.attention import draw_maps
from training.checkpoint import (
    CHECKPOINTS,
    Content,
    checkpoints,
    newest_usable,
    read_checkpoint,
    restore,
    save_checkpoint,
    state_shapes,
)
from training.interrupt import Interruption, exit_status
from training.metrics import Progress, diagnostics
from training.model import TCoRe, TCoReSettings
from training.nonfinite import FOLDER, broken_parts, write_report
from training.optimiser import OptimiserSettings, build_optimiser
from training.run_config import check_run_folder, check_shapes, run_config
from training.schedules import ScheduleSettings, build_schedules
from training.step import StepResult, random_seed, train_step

MAPS = 4
"""Clips whose cross-attention is drawn during training."""


class TrainSettings(Settings):
    """Length, batch and bookkeeping of a run."""

    total_batch_size: int = Field(256, ge=1)
    """Clips in the global batch, over all ranks."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Clips that a rank puts through the model at a time; gradients add up. Default: all it has of the batch."""
    epochs: int = Field(400, ge=1)
    """Length of the run."""
    steps_per_epoch: int | None = Field(None, ge=1)
    """Default: as many whole batches as the data set holds. The schedules count in epochs of this length."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights and of stochastic depth."""
    precision: Literal["no", "bf16"] = "no"
    """bf16: matrix products of the forward pass and their gradients in bfloat16; all else stays in float32."""
    compile: bool = False
    """Whether the blocks of the backbones are compiled with torch.compile."""
    recompute: bool = False
    """Whether the student's blocks are run again in the backward pass instead of keeping what they computed."""
    log_every: int = Field(10, ge=1)
    """Steps between two lines of metrics."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl; wandb must be installed for the second."""
    maps_every: int | None = Field(None, ge=1)
    """Steps between two pictures of the Patch Matching Module's cross-attention; default: none."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between two checkpoints; the last step is always saved."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that stay on disk."""
    keep_every: int | None = Field(None, ge=1)
    """Checkpoints at multiples of so many steps stay on disk as well."""
    nonfinite_steps: int = Field(1, ge=1)
    """The run stops at so many steps with a loss or gradient that is not finite; those before are left out."""


class PretrainCommand(Command):
    """Pre-train T-CoRe on shards, through `accelerate launch`. The same command continues from its last checkpoint.

    OUT holds config.json, metrics.jsonl, tensorboard/, checkpoints/step-N/ and what else is asked for.
    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint first.
    """

    program: ClassVar[str] = "accelerate launch training/pretrain.py"

    out: Path
    """Folder of the run."""
    resume: str = "auto"
    """auto: from the newest usable checkpoint in OUT, if any; or the folder of a checkpoint."""
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
    eval: EvalSettings = EvalSettings()
    """Scores of the teacher on DAVIS while it is trained, and the best weights."""


class Run:
    """A run in progress: model, optimiser, data and folder, and how many steps are done."""

    def __init__(self, command: PretrainCommand) -> None:
        """Build everything and restore the checkpoint to continue from.

        Raises:
            UserError: settings, data or checkpoints do not fit.
        """
        train = command.train
        check_shapes(command)
        if "wandb" in train.trackers and find_spec("wandb") is None:
            raise UserError("train.trackers has wandb, which is not installed: run `pip install wandb` or leave it out")
        self.manifest = read_manifest(command.data.shards)
        self.command, self.out = command, command.out
        project = ProjectConfiguration(str(command.out), logging_dir=str(command.out))
        trackers = list(train.trackers)
        self.accelerator = Accelerator(mixed_precision="no", log_with=trackers, project_config=project)
        if train.maps_every and self.accelerator.distributed_type == DistributedType.FSDP:
            raise UserError(
                "train.maps_every needs a model that is not sharded: leave it out with FSDP, and draw the maps of a "
                "checkpoint with `python -m training.attention`"
            )
        if self.accelerator.device.type == "cpu":  # launchers leave one thread to a rank
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // self.accelerator.num_processes))
        self.config = run_config(command, self.manifest.dataset_hash)
        self.steps_per_epoch = train.steps_per_epoch or max(1, self.manifest.samples // train.total_batch_size)
        self.last_step = train.epochs * self.steps_per_epoch
        self.schedules = build_schedules(command.schedule, train.epochs, self.steps_per_epoch, train.total_batch_size)
        torch.manual_seed(train.seed)
        core = TCoRe(command.model)
        core.student.backbone.recompute_blocks = train.recompute
        if train.compile:
            core.compile_blocks()
        self.model, self.optimiser = self.accelerator.prepare(core, build_optimiser(core, command.optimiser))
        self.core: TCoRe = self.accelerator.unwrap_model(self.model)
        self.evaluator = self._evaluator()
        self.done = self._restore()
        self.nonfinite = 0

    def _evaluator(self) -> DavisDuringTraining | None:
        if self.command.eval.davis is None:
            return None
        if self.accelerator.distributed_type == DistributedType.FSDP:
            raise UserError(
                "eval.davis needs a model that is not sharded: leave it out with FSDP, and score exported checkpoints "
                "with `python -m evaluation davis`"
            )
        patch_size, device = self.command.model.backbone.patch_size, self.accelerator.device
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        return DavisDuringTraining(self.command.eval, self.out, patch_size, device, rank, ranks)

    def _restore(self) -> int:
        shapes = state_shapes(self.core)
        content: Content | None = None
        chosen: list[str | None] = [None, None]  # path, error
        if self.accelerator.is_main_process:  # one rank decides, so that all take the same
            try:
                content = self._choose(shapes)
                chosen[0] = str(content.path) if content else None
            except UserError as error:
                chosen[1] = str(error)
        path, failure = broadcast_object_list(chosen)
        if failure:
            raise UserError(failure)
        if path is None:
            return 0
        content = content or read_checkpoint(Path(path), self.config, shapes)
        restore(content, self.core, self.optimiser)
        self.accelerator.print(f"continuing from {path}")
        return content.step

    def _choose(self, shapes: dict[str, tuple[int, ...]]) -> Content | None:
        """The checkpoint to continue from; says which newer ones were refused."""
        found = checkpoints(self.out)
        check_run_folder(self.out, self.config, begun=bool(found))
        if self.command.resume != "auto":
            return read_checkpoint(Path(self.command.resume), self.config, shapes)
        content, refused = newest_usable(found, self.config, shapes)
        for reason in refused:
            print(f"refused: {reason}", flush=True)
        return content

    def loader(self) -> Loader:
        """Batches of the steps that are left."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        total = self.command.train.total_batch_size
        return Loader(self.command.data, total, self.done, self.last_step, rank, ranks, self.accelerator.device)

    def save(self) -> None:
        """Write a checkpoint of the steps that are done; all ranks call it."""
        train, writes = self.command.train, self.accelerator.is_main_process
        keep = (train.keep_checkpoints, train.keep_every)
        save_checkpoint(self.out, self.done, self.core, self.optimiser, self.config, *keep, writes)
        self.accelerator.wait_for_everyone()

    def draw_maps(self, loader: Loader) -> None:
        """Draw the cross-attention on the first clips of the data set; nothing where there is none."""
        sandwich, size = self.command.data.sandwich, self.command.data.views.global_size
        if self.core.auxiliary and sandwich.auxiliary and not self.command.data.neighbours:
            folder = self.out / "attention" / f"step-{self.done:08d}"
            draw_maps(self.core, loader.dataset, range(min(MAPS, len(loader.dataset))), sandwich, size, folder)

    def evaluate(self, progress: Progress) -> None:
        """Score the teacher on DAVIS if it is time to; all ranks call it."""
        if self.evaluator is not None and self.evaluator.is_due(self.done, self.last_step):
            started = time.perf_counter()
            scores = self.evaluator.evaluate(self.core.teacher.backbone, self.done)
            progress.evaluated(self.done, scores, time.perf_counter() - started)

    def leave_out(self, loader: Loader, result: StepResult) -> None:
        """Deal with a step that was not finite: report it, and stop if it is one too many; all ranks call it.

        Raises:
            UserError: it is.
        """
        train, rank, ranks = self.command.train, self.accelerator.process_index, self.accelerator.num_processes
        size = train.total_batch_size // ranks
        part = slice(rank * size, (rank + 1) * size)
        plan = plan_batch(self.command.data, loader.table, self.done, train.total_batch_size, part)
        report = write_report(self.out, result, loader, plan, rank)
        self.nonfinite += 1
        if self.nonfinite < train.nonfinite_steps:
            print(f"step {self.done} is not finite and was left out: {report}", flush=True)
            return
        writes = self.accelerator.is_main_process
        save_checkpoint(self.out / FOLDER, self.done, self.core, self.optimiser, self.config, 1, writes=writes)
        broken = ", ".join(broken_parts(result)) or "those of another rank"
        raise UserError(
            f"not finite in step {self.done}: {broken}; {report} names the samples, "
            f"{self.out / FOLDER / CHECKPOINTS} holds the state before it. Lower the rate or look at the samples"
        )

    def take_step(self, loader: Loader, progress: Progress, signal: int) -> int:
        """Do one step with all that belongs to it; returns the signal that ends the run, or 0. All ranks call it."""
        train, accelerator = self.command.train, self.accelerator
        asked = time.perf_counter()
        batch = next(loader)
        progress.waited(time.perf_counter() - asked)
        values = self.schedules.at(self.done)
        torch.manual_seed(random_seed(train.seed, self.done, accelerator.process_index))
        clip = self.command.optimiser.clip
        result = train_step(
            accelerator,
            self.model,
            self.optimiser,
            batch,
            values,
            clip,
            micro_batch_size=train.micro_batch_size,
            bf16=train.precision == "bf16",
            signal=signal,
        )
        if not result.finite:
            self.leave_out(loader, result)
        self.done += 1
        others: dict[str, Any] = {f"gradient_norm/{name}": norm for name, norm in result.norms.items()}
        others |= {f"schedule/{name}": value for name, value in values._asdict().items()}
        progress.step_done(
            self.done, result.terms if result.finite else {}, others, lambda: diagnostics(result, self.core)
        )
        return result.signal


def main(command: PretrainCommand) -> int:
    """Train to the end, from the newest checkpoint if there is one; returns the exit status."""
    with Interruption() as interruption:
        run = Run(command)
        train, accelerator = command.train, run.accelerator
        if run.done >= run.last_step:
            accelerator.print(f"the run in {run.out} is finished: {checkpoints(run.out)[-1]}")
            return 0
        parameters = sum(parameter.numel() for parameter in run.core.student.parameters()) / 1e6
        accelerator.print(
            f"{run.manifest.samples} samples, steps {run.done} to {run.last_step} of {train.total_batch_size} samples, "
            f"{parameters:.1f} M student parameters, {accelerator.num_processes} x {accelerator.device.type}"
        )
        progress = Progress(accelerator, run.out, run.done, run.last_step, train.total_batch_size, train.log_every)
        with run.loader() as loader, contextlib.closing(progress):
            while run.done < run.last_step:
                ended_by = run.take_step(loader, progress, interruption.signal)
                if train.maps_every and run.done % train.maps_every == 0 and accelerator.is_main_process:
                    run.draw_maps(loader)
                if ended_by or run.done % train.checkpoint_every == 0 or run.done == run.last_step:
                    run.save()
                if ended_by and run.done < run.last_step:
                    accelerator.print(f"interrupted after step {run.done}, which is saved; the same command continues")
                    return exit_status(ended_by)
                run.evaluate(progress)
        accelerator.print(f"finished: {checkpoints(run.out)[-1]}")
        return 0


if __name__ == "__main__":
    run_command(PretrainCommand, main)
