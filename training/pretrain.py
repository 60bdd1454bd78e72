"""`accelerate launch training/pretrain.py --config configs/NAME.yaml`: pre-train, and score the teacher meanwhile."""

import contextlib

from pipeline import startup as startup  # isort: skip - before Accelerate, which takes seconds to import

from accelerate import Accelerator
from accelerate.utils import DistributedType

from evaluation.during_training import DavisDuringTraining, EvalSettings
from pipeline.settings import UserError, run_command
from training.checkpoint import checkpoints
from training.command import TrainCommand
from training.distributed import exclusive_run
from training.metrics import Progress
from training.run_config import check_shapes
from training.signals import SignalHandler, exit_status
from training.start import start_ranks
from training.trainer import Trainer


class PretrainCommand(TrainCommand):
    """Pre-train T-CoRe on shards, through `accelerate launch`. The same command continues from its last checkpoint.

    OUT holds config.json, metrics.jsonl, tensorboard/, checkpoints/step-N/ and what else is asked for.
    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint first.
    """

    eval: EvalSettings = EvalSettings()
    """Scores of the teacher on DAVIS while it is trained, and the best weights."""


def build_evaluator(command: PretrainCommand, accelerator: Accelerator) -> DavisDuringTraining | None:
    """What scores the teacher on this rank; None if nothing is to be scored.

    Raises:
        UserError: the data set cannot be used, or the model is sharded.
    """
    if command.eval.davis is None:
        return None
    if accelerator.distributed_type == DistributedType.FSDP:
        raise UserError(
            "eval.davis needs a model that is not sharded: leave it out with FSDP, and score exported checkpoints "
            "with `python -m evaluation davis`"
        )
    rank, ranks = accelerator.process_index, accelerator.num_processes
    patch_size = command.model.backbone.patch_size
    return DavisDuringTraining(command.eval, command.out, patch_size, accelerator.device, rank, ranks)


def main(command: PretrainCommand) -> int:
    """Train to the end, from the newest checkpoint if there is one; returns the exit status."""
    check_shapes(command)
    with SignalHandler() as interruption, contextlib.ExitStack() as stack:
        accelerator = start_ranks(command)
        stack.enter_context(exclusive_run(accelerator, command.out))
        trainer, train = Trainer(command, accelerator, build_evaluator(command, accelerator)), command.train
        if trainer.done >= trainer.last_step:
            accelerator.print(f"nothing is left to do: all {trainer.last_step} steps are done")
            return 0
        parameters = sum(parameter.numel() for parameter in trainer.core.student.parameters()) / 1e6
        accelerator.print(
            f"{trainer.data}, steps {trainer.done} to {trainer.last_step} of {train.total_batch_size} samples, "
            f"{parameters:.1f} M student parameters"
        )
        progress = Progress(
            accelerator,
            trainer.out,
            trainer.config,
            trainer.done,
            trainer.last_step,
            train.total_batch_size,
            train.log_every,
        )
        with trainer.loader() as loader, contextlib.closing(progress):
            while trainer.done < trainer.last_step:
                ended_by = trainer.train_step(loader, progress, interruption.signal)
                trainer.draw_maps(loader)
                if ended_by or trainer.done % train.checkpoint_every == 0 or trainer.done == trainer.last_step:
                    trainer.save()
                if ended_by and trainer.done < trainer.last_step:
                    accelerator.print(
                        f"interrupted after step {trainer.done}, which is saved; the same command continues"
                    )
                    return exit_status(ended_by)
                trainer.evaluate(progress)
        accelerator.print(f"finished: {checkpoints(trainer.out)[-1]}")
        return 0


if __name__ == "__main__":
    run_command(PretrainCommand, main)
