"""The ranks of a run: how they find each other, on which devices, and whether all that were asked for are there."""

import os
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration

from pipeline.settings import UserError
from training.backbone.numerics import pin_float32, refuse_hidden_settings
from training.command import TrainCommand
from training.environment import of_training

_NUMBERS_OF_RANKS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun, MPI and schedulers say how many ranks there are."""
_TOGETHER = (
    "start all ranks together, with a launch file of configs/accelerate/ or `accelerate launch --multi_gpu`, or unset "
    "the variable to train on this process alone"
)


def missing_ranks(environment: Mapping[str, str], ranks: int) -> str | None:
    """What is wrong if the environment speaks of more ranks than the `ranks` that found each other, else None."""
    asked = {name: int(environment[name]) for name in _NUMBERS_OF_RANKS if environment.get(name, "").isdigit()}
    for name, number in asked.items():
        if number > ranks:
            return f"{name} = {number}, but this run has {_counted(ranks, 'rank')}: {_TOGETHER}"
    if not asked and environment.get("MASTER_ADDR"):  # accelerate launch sets it where it was asked for several ranks
        address = environment["MASTER_ADDR"]
        return f"MASTER_ADDR = {address} speaks of other ranks, but this process was started alone: {_TOGETHER}"
    return None


def number_of_machines(environment: Mapping[str, str], ranks: int) -> int:
    """How many machines the ranks are on; each has as many of them."""
    return ranks // int(environment.get("LOCAL_WORLD_SIZE", ranks))


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def start_ranks(command: TrainCommand) -> Accelerator:
    """Join the other ranks, if there are any; says first of all on how many machines they are.

    Raises:
        UserError: ranks are missing, or the environment would change the result.
    """
    refuse_hidden_settings(os.environ, of_training(os.environ))
    pin_float32()
    out = command.out
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # or several ranks would not know of one another
        mixed_precision="no",
        dynamo_backend="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=list(command.train.trackers),
        project_config=ProjectConfiguration(str(out), logging_dir=str(out / "tensorboard")),
    )
    ranks, device = accelerator.num_processes, accelerator.device.type
    if missing := missing_ranks(os.environ, ranks):
        raise UserError(missing)
    machines = number_of_machines(os.environ, ranks)
    accelerator.print(f"{_counted(machines, 'machine')}, {_counted(ranks, 'rank')}, {device}", flush=True)
    if device == "cpu":  # launchers leave one thread to a rank
        cores, ranks_here = len(os.sched_getaffinity(0)), ranks // machines
        torch.set_num_threads(max(1, cores // ranks_here))
        if ranks > 1:
            accelerator.print(f"note: PyTorch sees no GPU, so {ranks_here} ranks share {cores} CPU cores a machine")
    return accelerator
