"""`accelerate launch training/pretrain.py --config configs/NAME.yaml`: the pre-training loop."""

import contextlib

from pipeline.settings import run_command
from training.checkpoint import checkpoints
from training.command import PretrainCommand
from training.interrupt import Interruption, exit_status
from training.metrics import Progress
from training.run import Run
from training.run_config import check_shapes
from training.start import start_ranks
from training.together import alone


def main(command: PretrainCommand) -> int:
    """Train to the end, from the newest checkpoint if there is one; returns the exit status."""
    check_shapes(command)
    with Interruption() as interruption, contextlib.ExitStack() as stack:
        accelerator = start_ranks(command)
        stack.enter_context(alone(accelerator, command.out))
        run, train = Run(command, accelerator), command.train
        if run.done >= run.last_step:
            accelerator.print(f"nothing is left to do: all {run.last_step} steps are done")
            return 0
        parameters = sum(parameter.numel() for parameter in run.core.student.parameters()) / 1e6
        accelerator.print(
            f"{run.data}, steps {run.done} to {run.last_step} of {train.total_batch_size} samples, "
            f"{parameters:.1f} M student parameters"
        )
        progress = Progress(
            accelerator, run.out, run.config, run.done, run.last_step, train.total_batch_size, train.log_every
        )
        with run.loader() as loader, contextlib.closing(progress):
            while run.done < run.last_step:
                ended_by = run.take_step(loader, progress, interruption.signal)
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
