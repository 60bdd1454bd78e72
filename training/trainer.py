"""The trainer: model, optimizer, data and folder of a run, and the loop over its steps."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function
from tqdm import tqdm

from pipeline.files import write_bytes
from pipeline.preview.batch import draw_samples
from pipeline.reader.batch import PlannedBatch
from pipeline.reader.loader import Loader
from pipeline.sampling.plan import BatchPlan
from pipeline.settings import UserError
from training.attention_maps import draw_maps
from training.backbone.vit import VisionTransformer
from training.checkpoint import (
    CHECKPOINTS,
    checkpoints,
    has_optimizer_state,
    remove_outdated,
    restore,
    save_checkpoint,
    state_shapes,
)
from training.command import TrainCommand
from training.distributed import Attempt, HostCopy, all_reduce_max, raise_on_all_ranks
from training.metrics import Progress, diagnostics
from training.model import TCoRe
from training.nonfinite import FOLDER, broken_parts, write_report
from training.optimizer import build_optimizer
from training.origin import Origin
from training.profiler import StepProfiler
from training.provenance import provenance
from training.recompute import recompute_activations
from training.report import SAMPLES, never_fatal, write_run_report
from training.resume import find_checkpoint
from training.run_config import BATCH_PICTURE, PAGE, check_run_folder, read_data, run_config, write_config
from training.schedules import StepValues, build_schedules, frozen_steps
from training.signals import SignalHandler
from training.step import StepResult, StepSettings, forward_backward_step, random_seed, update_student

MAPS = 4
"""Clips whose cross-attention is drawn during training."""


class Evaluator(Protocol):
    """Scores the teacher at some steps of a run and writes `files` into its folder."""

    files: tuple[str, ...]

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        ...

    def evaluate(self, backbone: VisionTransformer, step: int, origin: Mapping[str, Any]) -> dict[str, float]:
        """Scores of the backbone after `step` steps, by name; all ranks call this.

        `origin` says on the main rank where the weights come from, for the files that are written.
        """
        ...


class Trainer:
    """A run in progress: model, optimizer, data and folder, and the number of steps done."""

    def __init__(
        self,
        command: TrainCommand,
        accelerator: Accelerator,
        origin: Origin,
        evaluator: Evaluator | None = None,
    ) -> None:
        """Build everything and restore the checkpoint to continue from; no other run may use the folder.

        `command` and `origin` are the result of `find_origin`.

        Raises:
            UserError: settings, data or checkpoints do not fit together.
        """
        train = command.train
        self.command, self.out, self.accelerator, self.evaluator = command, command.out, accelerator, evaluator
        self.data = raise_on_all_ranks(accelerator, lambda: read_data(command.data))
        self.config = run_config(command, self.data) | origin.recorded
        steps_per_epoch = train.steps_per_epoch or max(1, self.data.samples // train.total_batch_size)
        self.last_step = train.epochs * steps_per_epoch
        raise_on_all_ranks(accelerator, self._check_folder)
        self.schedules = build_schedules(command.schedule, train.epochs, steps_per_epoch, train.total_batch_size)
        self.frozen_steps = frozen_steps(command.model.freeze_backbone_epochs, train.epochs, steps_per_epoch)
        self.step_settings = StepSettings(command.optimizer.clip, train.micro_batch_size, train.precision == "bf16")
        torch.manual_seed(train.seed)
        core = TCoRe(command.model)
        recompute_activations(core.student.backbone.blocks, train.recompute)
        if train.compile:
            core.compile_parts()
        content = find_checkpoint(accelerator, command, self.config, state_shapes(core))
        self.done = self.saved = content.step if content else 0
        if origin.backbone is not None and content is None:
            core.initialize_backbones(origin.backbone)
        optimizer = build_optimizer(core, command.optimizer)
        # parameters that have been frozen in all steps so far have no state in the optimizer
        trained = self.frozen_steps == 0 if content is None else has_optimizer_state(content, "student.backbone.")
        core.student.backbone.requires_grad_(trained)
        self.model, prepared = accelerator.prepare(core, optimizer)
        self.optimizer: torch.optim.Optimizer = prepared.optimizer  # without the wrapper that hides `found_inf`
        self.core: TCoRe = accelerator.unwrap_model(self.model)
        if content is not None:
            restore(content, self.core, self.optimizer)
        raise_on_all_ranks(accelerator, self._write_config)  # nothing is left of a run that was refused
        self.nonfinite = 0
        self._batch: Attempt[PlannedBatch | None]
        self._failed = 0

    def _check_folder(self) -> None:
        if self.accelerator.is_main_process:
            files = self.evaluator.files if self.evaluator else ()
            begun, branch = bool(checkpoints(self.out)), self.config["branched_from"]
            check_run_folder(self.out, self.config, begun, files)
            if branch and not begun and branch["step"] >= self.last_step:
                raise UserError(
                    f"train.epochs = {self.command.train.epochs} ends the run after step {self.last_step}, but "
                    f"{self.command.resume} is of step {branch['step']}: give more epochs"
                )

    def _write_config(self) -> None:
        if self.accelerator.is_main_process:
            write_config(self.out, self.config)

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.core.student.parameters()) / 1e6
        return (
            f"{self.data}, steps {self.done} to {self.last_step} of {self.command.train.total_batch_size} samples, "
            f"{parameters:.1f} M student parameters"
        )

    def fit(self, signals: SignalHandler) -> int:
        """Train to the last step, or until a signal arrives on any rank; all ranks call this.

        Returns the number of the signal that ended the run before its last step, or 0.
        """
        try:
            ended_by = self._fit(signals)
        except Exception:
            self.report()
            raise
        self.report()
        return ended_by

    def _fit(self, signals: SignalHandler) -> int:
        progress = Progress(self.accelerator, self.command, self.config, self.done, self.last_step)
        profiled = self.command.train.profile if self.accelerator.is_main_process else None
        profiler = StepProfiler(self.out, profiled, self.accelerator.device.type == "cuda")
        with self.loader() as loader, contextlib.closing(progress), contextlib.ExitStack() as stack:
            stack.callback(lambda: _print_profile(profiler.finish()))
            self._read(loader, progress)
            (self._failed,) = map(int, HostCopy(all_reduce_max(self.accelerator, self._batch.flag)).read())
            self._draw_samples(loader)
            while self.done < self.last_step:
                profiler.step_begins()
                ended_by = self.train_step(loader, progress, signals)
                _print_profile(profiler.step_done())
                self.draw_maps(loader)
                last = self.done == self.last_step
                if ended_by or last or self.done % self.command.train.checkpoint_every == 0:
                    self.save()
                if ended_by and not last:
                    return ended_by
                self.evaluate(progress)
        return 0

    def loader(self) -> Loader:
        """Batches of the steps that are left; all ranks call this."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        steps, device = range(self.done, self.last_step), self.accelerator.device
        total = self.command.train.total_batch_size
        return raise_on_all_ranks(
            self.accelerator, lambda: Loader(self.command.data, total, steps, rank, ranks, device)
        )

    def train_step(self, loader: Loader, progress: Progress, signals: SignalHandler) -> int:
        """Do one step and log it; all ranks call this.

        Returns the largest number of a signal that has arrived on any rank, 0 for none. One reduction tells all ranks
        that, whether the step is finite, and whether the next batch could be read. Its result is the only thing that
        the host waits for in a step, and the device has the update of the student to do meanwhile.
        """
        self._train_backbone(self.done >= self.frozen_steps)
        batch = self._take_batch()
        plan, values = batch.plan, self.schedules.at(self.done)
        torch.manual_seed(random_seed(self.command.train.seed, self.done, self.accelerator.process_index))
        result = forward_backward_step(
            self.accelerator, self.model, batch, values.teacher_temperature, self.step_settings
        )
        del batch  # the next one takes its memory
        self._read(loader, progress)
        flags = all_reduce_max(self.accelerator, ~result.finite, signals.signal, self._batch.flag)
        on_host = HostCopy(flags)
        update_student(self.optimizer, values, skipped=flags[0])
        not_finite, signal, self._failed = map(int, on_host.read())
        if not_finite:
            self.core.forget_pending_centers()
            self.skip_nonfinite_step(loader, plan, result)
        else:
            with record_function("EMA"):
                self.core.update_teacher(values.momentum)
                self.core.apply_center_update()
        self.done += 1
        self._log(progress, result, values, bool(not_finite))
        return signal

    def _train_backbone(self, trained: bool) -> None:
        """Freeze the student's backbone or end that; all ranks call this."""
        backbone = self.core.student.backbone
        if next(backbone.parameters()).requires_grad == trained:
            return
        backbone.requires_grad_(trained)
        if isinstance(self.model, DistributedDataParallel):  # which chose the gradients to reduce when it was built
            del self.model
            self.accelerator.free_memory()
            self.model = self.accelerator.prepare_model(self.core)

    def _read(self, loader: Loader, progress: Progress) -> None:
        """Read the batch of the next step; after the last step there is none."""
        started = time.perf_counter()
        with record_function("wait for data"):
            self._batch = Attempt(self.accelerator.process_index, lambda: next(loader, None))
        progress.waited(time.perf_counter() - started)

    def _take_batch(self) -> PlannedBatch:
        """The batch that was read; if any rank failed to read its own, the steps done are saved.

        Raises:
            UserError: a rank failed.
        """
        try:
            batch = self._batch.result(self._failed)
        except Exception:
            self.save()
            self.accelerator.print(f"step {self.done} is saved; once the data is repaired, the same command continues")
            raise
        assert batch is not None, "the loader ends with the run"
        del self._batch
        return batch

    def _log(self, progress: Progress, result: StepResult, values: StepValues, skipped: bool) -> None:
        others: dict[str, Any] = {f"gradient_norm/{name}": norm for name, norm in result.norms.items()}
        others |= {f"schedule/{name}": value for name, value in values._asdict().items()}
        losses = {} if skipped else result.losses
        progress.step_done(self.done, losses, others, lambda: diagnostics(self.accelerator, result, self.core))

    def skip_nonfinite_step(self, loader: Loader, plan: BatchPlan, result: StepResult) -> None:
        """Report a step that was not finite; all ranks call this.

        Raises:
            UserError: it was the last one that `train.nonfinite_steps` allows.
        """
        report = write_report(self.out, result, loader, plan, self.accelerator.process_index)
        self.nonfinite += 1
        if self.nonfinite < self.command.train.nonfinite_steps:
            print(f"step {self.done} is not finite and was skipped: {report}", flush=True)
            return
        writes = self.accelerator.is_main_process
        save_checkpoint(self.out / FOLDER, self.done, self.core, self.optimizer, self.config, writes)
        if writes:
            remove_outdated(self.out / FOLDER, keep=1)
        broken = ", ".join(broken_parts(result)) or "values of another rank"
        raise UserError(
            f"not finite in step {self.done}: {broken}; {report} names the samples, "
            f"{self.out / FOLDER / CHECKPOINTS} holds the state before it. "
            "Lower the learning rate or inspect the samples"
        )

    def save(self) -> None:
        """Write a checkpoint of the steps done, unless there is one; all ranks call this."""
        if self.saved == self.done:
            return
        train, writes = self.command.train, self.accelerator.is_main_process

        def write() -> None:
            save_checkpoint(self.out, self.done, self.core, self.optimizer, self.config, writes)
            if writes:
                remove_outdated(self.out, train.keep_checkpoints, train.keep_every)

        raise_on_all_ranks(self.accelerator, write)
        self.saved = self.done

    def draw_maps(self, loader: Loader) -> None:
        """Draw the cross-attention on the first clips of the first dataset, if it is due; all ranks call this."""
        sandwich, size = self.command.data.sandwich, self.command.data.views.global_size
        every, model = self.command.train.maps_every, self.core.pmm
        if not every or self.done % every or not model or not sandwich.auxiliary or self.command.data.neighbours:
            return
        folder, clips = self.out / "attention" / f"step-{self.done:08d}", range(min(MAPS, len(loader.dataset)))
        drawn = clips if self.accelerator.is_main_process else ()
        raise_on_all_ranks(
            self.accelerator, lambda: draw_maps(self.core, loader.dataset, drawn, sandwich, size, folder)
        )

    def _draw_samples(self, loader: Loader) -> None:
        """Draw samples of the batch that was read, for the report."""
        if self.command.train.report and self.accelerator.is_main_process and not self._failed:
            with never_fatal(BATCH_PICTURE):
                batch = self._batch.result(0)
                assert batch is not None, "there are steps left"
                write_bytes(self.out / BATCH_PICTURE, draw_samples(self.command.data, loader, batch, SAMPLES))

    def report(self) -> None:
        """Write the report of the run so far."""
        if self.command.train.report and self.accelerator.is_main_process:
            with never_fatal(PAGE):
                write_run_report(self.out, self.config, self.last_step, self.evaluator.files if self.evaluator else ())

    def evaluate(self, progress: Progress) -> None:
        """Score the teacher, if it is due; all ranks call this."""
        if self.evaluator is not None and self.evaluator.is_due(self.done, self.last_step):
            started = time.perf_counter()
            writes = self.accelerator.is_main_process
            origin = provenance(self.config, self.out, self.done) if writes else {}
            scores = self.evaluator.evaluate(self.core.teacher.backbone, self.done, origin)
            progress.evaluated(self.done, scores, time.perf_counter() - started)


def _print_profile(rows: list[tuple[str, str]]) -> None:
    """Print the rows of a profile, if there are any, with the place of its trace."""
    for left, right in rows:
        tqdm.write(f"{left:<40} {right}")
