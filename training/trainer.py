"""The trainer: model, optimizer, data and folder of a run, and all that belongs to a step."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list

from pipeline.reader.batch import PlannedBatch
from pipeline.reader.loader import Loader
from pipeline.settings import UserError
from training.attention_maps import draw_maps
from training.backbone.vit import VisionTransformer
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
from training.command import TrainCommand
from training.distributed import raise_on_all_ranks
from training.metrics import Progress, diagnostics
from training.model import TCoRe
from training.nonfinite import FOLDER, broken_parts, write_report
from training.optimizer import build_optimizer
from training.recompute import recompute_activations
from training.run_config import check_run_folder, read_data, run_config
from training.schedules import build_schedules
from training.step import StepResult, random_seed, train_step

MAPS = 4
"""Clips whose cross-attention is drawn during training."""


class Evaluator(Protocol):
    """Scores the teacher from time to time during training, and writes `files` into the folder of the run."""

    files: tuple[str, ...]

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        ...

    def evaluate(self, backbone: VisionTransformer, step: int) -> dict[str, float]:
        """Scores of the backbone after `step` steps, by name; all ranks call this."""
        ...


class Trainer:
    """A run in progress: model, optimizer, data and folder, and how many steps are done."""

    def __init__(self, command: TrainCommand, accelerator: Accelerator, evaluator: Evaluator | None = None) -> None:
        """Build everything and restore the checkpoint to continue from; no other run may be in the folder.

        Raises:
            UserError: settings, data or checkpoints do not fit.
        """
        train = command.train
        if "wandb" in train.trackers and find_spec("wandb") is None:
            raise UserError("train.trackers has wandb, which is not installed: run `pip install wandb` or leave it out")
        self.command, self.out, self.accelerator, self.evaluator = command, command.out, accelerator, evaluator
        if train.maps_every and self.accelerator.distributed_type == DistributedType.FSDP:
            raise UserError(
                "train.maps_every needs a model that is not sharded: leave it out with FSDP, and draw the maps of a "
                "checkpoint with `python -m training.attention_maps`"
            )
        self.data = raise_on_all_ranks(self.accelerator, lambda: read_data(command.data))
        self.config = run_config(command, self.data)
        steps_per_epoch = train.steps_per_epoch or max(1, self.data.samples // train.total_batch_size)
        self.last_step = train.epochs * steps_per_epoch
        self.schedules = build_schedules(command.schedule, train.epochs, steps_per_epoch, train.total_batch_size)
        torch.manual_seed(train.seed)
        core = TCoRe(command.model)
        recompute_activations(core.student.backbone.blocks, train.recompute)
        if train.compile:
            core.compile_blocks()
        self.model, self.optimizer = self.accelerator.prepare(core, build_optimizer(core, command.optimizer))
        self.core: TCoRe = self.accelerator.unwrap_model(self.model)
        self.done = self.saved = self._restore()
        self.nonfinite = 0

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
        content = raise_on_all_ranks(
            self.accelerator, lambda: content or read_checkpoint(Path(path), self.config, shapes)
        )
        restore(content, self.core, self.optimizer)
        self.accelerator.print(f"continuing from {path}")
        return content.step

    def _choose(self, shapes: dict[str, tuple[int, ...]]) -> Content | None:
        """The checkpoint to continue from; says which newer ones were refused."""
        result = checkpoints(self.out)
        files = self.evaluator.files if self.evaluator else ()
        check_run_folder(self.out, self.config, bool(result), files)
        if self.command.resume != "auto":
            return read_checkpoint(Path(self.command.resume), self.config, shapes)
        content, refused = newest_usable(result, self.config, shapes)
        for reason in refused:
            print(f"refused: {reason}", flush=True)
        return content

    def loader(self) -> Loader:
        """Batches of the steps that are left; all ranks call it."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        steps, device = range(self.done, self.last_step), self.accelerator.device
        total = self.command.train.total_batch_size
        return raise_on_all_ranks(
            self.accelerator, lambda: Loader(self.command.data, total, steps, rank, ranks, device)
        )

    def next_batch(self, loader: Loader) -> PlannedBatch:
        """The next batch of this rank; if any rank cannot read its own, the steps that are done are saved.

        Raises:
            UserError: a rank cannot, and so all end.
        """
        try:
            return raise_on_all_ranks(self.accelerator, lambda: next(loader))
        except Exception:
            self.save()
            self.accelerator.print(f"step {self.done} is saved; once the data is mended, the same command continues")
            raise

    def save(self) -> None:
        """Write a checkpoint of the steps that are done, unless that has been done; all ranks call it."""
        if self.saved == self.done:
            return
        train, writes = self.command.train, self.accelerator.is_main_process
        keep = (train.keep_checkpoints, train.keep_every)
        raise_on_all_ranks(
            self.accelerator,
            lambda: save_checkpoint(self.out, self.done, self.core, self.optimizer, self.config, *keep, writes),
        )
        self.saved = self.done

    def draw_maps(self, loader: Loader) -> None:
        """Draw the cross-attention on the first clips of the first dataset, if it is time to; all ranks call it."""
        sandwich, size = self.command.data.sandwich, self.command.data.views.global_size
        every, model = self.command.train.maps_every, self.core.pmm
        if not every or self.done % every or not model or not sandwich.auxiliary or self.command.data.neighbours:
            return
        folder, clips = self.out / "attention" / f"step-{self.done:08d}", range(min(MAPS, len(loader.dataset)))
        drawn = clips if self.accelerator.is_main_process else ()
        raise_on_all_ranks(
            self.accelerator, lambda: draw_maps(self.core, loader.dataset, drawn, sandwich, size, folder)
        )

    def evaluate(self, progress: Progress) -> None:
        """Score the teacher if it is time to; all ranks call it."""
        if self.evaluator is not None and self.evaluator.is_due(self.done, self.last_step):
            started = time.perf_counter()
            scores = self.evaluator.evaluate(self.core.teacher.backbone, self.done)
            progress.evaluated(self.done, scores, time.perf_counter() - started)

    def skip_nonfinite_step(self, loader: Loader, batch: PlannedBatch, result: StepResult) -> None:
        """Deal with a step that was not finite: report it, and stop if it is one too many; all ranks call it.

        Raises:
            UserError: it is.
        """
        train = self.command.train
        report = write_report(self.out, result, loader, batch.plan, self.accelerator.process_index)
        self.nonfinite += 1
        if self.nonfinite < train.nonfinite_steps:
            print(f"step {self.done} is not finite and was left out: {report}", flush=True)
            return
        writes = self.accelerator.is_main_process
        save_checkpoint(self.out / FOLDER, self.done, self.core, self.optimizer, self.config, 1, writes=writes)
        broken = ", ".join(broken_parts(result)) or "those of another rank"
        raise UserError(
            f"not finite in step {self.done}: {broken}; {report} names the samples, "
            f"{self.out / FOLDER / CHECKPOINTS} holds the state before it. "
            "Lower the learning rate or inspect the samples"
        )

    def train_step(self, loader: Loader, progress: Progress, signal: int) -> int:
        """Do one step with all that belongs to it; returns the signal that ends the run, or 0. All ranks call it."""
        train, accelerator = self.command.train, self.accelerator
        asked = time.perf_counter()
        batch = self.next_batch(loader)
        progress.waited(time.perf_counter() - asked)
        values = self.schedules.at(self.done)
        torch.manual_seed(random_seed(train.seed, self.done, accelerator.process_index))
        clip = self.command.optimizer.clip
        result = train_step(
            accelerator,
            self.model,
            self.optimizer,
            batch,
            values,
            clip,
            micro_batch_size=train.micro_batch_size,
            bf16=train.precision == "bf16",
            signal=signal,
        )
        if not result.finite:
            self.skip_nonfinite_step(loader, batch, result)
        self.done += 1
        others: dict[str, Any] = {f"gradient_norm/{name}": norm for name, norm in result.norms.items()}
        others |= {f"schedule/{name}": value for name, value in values._asdict().items()}
        progress.step_done(
            self.done,
            result.losses if result.finite else {},
            others,
            lambda: diagnostics(accelerator, result, self.core),
        )
        return result.signal
