"""`accelerate launch training/pretrain.py --config configs/NAME.yaml`: pre-training, with scores of the teacher."""

import contextlib

from pipeline import startup as startup  # isort: skip - before Accelerate, which takes seconds to import

from accelerate import Accelerator
from accelerate.utils import DistributedType

from evaluation.during_training import EvalSettings, EvaluationDuringTraining
from pipeline.settings import UserError, run_command
from training.checkpoint import checkpoints
from training.command import TrainCommand
from training.distributed import exclusive_run
from training.origin import find_origin
from training.run_config import check_shapes
from training.signals import SignalHandler, exit_status
from training.start import start_ranks
from training.trainer import Trainer


class PretrainCommand(TrainCommand):
    """Pre-train T-CoRe on shards, through `accelerate launch`. The same command continues from its last checkpoint.

    OUT will hold config.json, metrics.jsonl, tensorboard/, checkpoints/step-N/ and other results that are requested.
    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint first.
    """

    eval: EvalSettings = EvalSettings()
    """Scores of the teacher during training, and the best weights."""


def build_evaluator(command: PretrainCommand, accelerator: Accelerator) -> EvaluationDuringTraining | None:
    """The evaluator of this rank; None without `eval.davis` and `eval.knn`.

    Raises:
        UserError: a dataset cannot be used, or the model is sharded.
    """
    if command.eval.davis is None and command.eval.knn is None:
        return None
    if accelerator.distributed_type == DistributedType.FSDP:
        raise UserError(
            "eval.davis and eval.knn need a model that is not sharded: leave them out with FSDP, and score exported "
            "checkpoints with `python -m evaluation`"
        )
    rank, ranks = accelerator.process_index, accelerator.num_processes
    patch_size = command.model.backbone.patch_size
    return EvaluationDuringTraining(command.eval, command.out, patch_size, accelerator.device, rank, ranks)


def main(command: PretrainCommand) -> int:
    """Train to the end, from the newest checkpoint if there is one; returns the exit status."""
    with SignalHandler() as signals, contextlib.ExitStack() as stack:
        accelerator = start_ranks(command)
        command, origin = find_origin(accelerator, command)
        check_shapes(command)
        stack.enter_context(exclusive_run(accelerator, command.out))
        trainer = Trainer(command, accelerator, origin, build_evaluator(command, accelerator))
        del origin  # the model has its weights
        if trainer.done >= trainer.last_step:
            accelerator.print(f"nothing is left to do: all {trainer.last_step} steps are done")
            return 0
        accelerator.print(trainer)
        if ended_by := trainer.fit(signals):
            accelerator.print(f"interrupted after step {trainer.done}, which is saved; the same command continues")
            return exit_status(ended_by)
        accelerator.print(f"finished: {checkpoints(command.out)[-1]}")
        return 0


if __name__ == "__main__":
    run_command(PretrainCommand, main)
