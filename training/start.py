"""Start-up of the ranks of a run: devices, communication, and a check that all of them are present."""

import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    ProjectConfiguration,
)

from pipeline.settings import UserError
from training.backbone.device import default_device
from training.backbone.numerics import pin_float32, refuse_hidden_settings
from training.command import TrainCommand
from training.environment import of_training

_NUMBERS_OF_RANKS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which torchrun, MPI and schedulers give the number of ranks."""
_TOGETHER = (
    "start all ranks together, with a launch file of configs/accelerate/ or `accelerate launch --multi_gpu`, or unset "
    "the variable to train on this process alone"
)


def missing_ranks(environment: Mapping[str, str], ranks: int) -> str | None:
    """An error if the environment asks for more ranks than the `ranks` that are connected, else None."""
    requested = {name: int(environment[name]) for name in _NUMBERS_OF_RANKS if environment.get(name, "").isdigit()}
    for name, number in requested.items():
        if number > ranks:
            return f"{name} = {number}, but this run has {_counted(ranks, 'rank')}: {_TOGETHER}"
    if not requested and environment.get("MASTER_ADDR"):  # set by accelerate launch if several ranks were requested
        address = environment["MASTER_ADDR"]
        return f"MASTER_ADDR = {address} asks for other ranks, but this process was started alone: {_TOGETHER}"
    return None


def number_of_machines(environment: Mapping[str, str], ranks: int) -> int:
    """Number of machines, each with the same number of ranks."""
    return ranks // int(environment.get("LOCAL_WORLD_SIZE", ranks))


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def missing_compiler(environment: Mapping[str, str], device: str) -> str | None:
    """What `torch.compile` lacks for a device of this type, as an error, or None."""
    if device == "cuda" and find_spec("triton") is None:
        missing, remedy = "Triton", "run `pip install triton`"
    else:
        variable, names = ("CC", ("gcc", "clang")) if device == "cuda" else ("CXX", ("g++",))
        given = environment.get(variable)
        if any(shutil.which(name, path=environment.get("PATH")) for name in (names if given is None else (given,))):
            return None
        missing = f"{given or ' or '.join(names)} on the PATH"
        remedy = f"install it or set {variable} to another compiler"
    return f"train.compile = true needs {missing}: {remedy}, or train without, with --train.compile false"


def unusable_tracker(trackers: Iterable[str], installed: Iterable[str]) -> str | None:
    """An error that names the first of `trackers` that is not `installed` or that Accelerate does not know, or None."""
    usable = sorted(installed)
    for name in trackers:
        if name not in usable:
            known = name in LOGGER_TYPE_TO_CLASS
            problem = "which is not installed" if known else "which Accelerate does not know"
            every = "" if known else f" of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}"
            return f"train.trackers has {name}, {problem}: here are {', '.join(usable) or 'none'}{every}"
    return None


def start_ranks(command: TrainCommand) -> Accelerator:
    """Connect to the other ranks, if there are any, and print the number of machines and ranks.

    Raises:
        UserError: ranks are missing, PyTorch cannot use the GPUs, the environment would change the result, or an option
            cannot be used here.
    """
    refuse_hidden_settings(os.environ, of_training(os.environ))
    if problem := unusable_tracker(command.train.trackers, map(str, get_available_trackers())):
        raise UserError(problem)
    pin_float32()
    out = command.out
    # PyTorch has renamed the option below; Accelerate knows its old name alone.
    warnings.filterwarnings("ignore", "broadcast_buffers is deprecated", FutureWarning)
    accelerator = Accelerator(
        cpu=default_device() == "cpu",  # or several ranks would not be connected
        mixed_precision="no",
        dynamo_backend="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        log_with=list(command.train.trackers),
        project_config=ProjectConfiguration(str(out), logging_dir=str(out / "tensorboard")),
    )
    ranks, device = accelerator.num_processes, accelerator.device.type
    if missing := missing_ranks(os.environ, ranks):
        raise UserError(missing)
    if command.train.maps_every and accelerator.distributed_type == DistributedType.FSDP:
        raise UserError(
            "train.maps_every needs a model that is not sharded: leave it out with FSDP, and draw the maps of a "
            "checkpoint with `python -m training.attention_maps`"
        )
    if command.train.compile and (lacking := missing_compiler(os.environ, device)):
        raise UserError(lacking)
    machines = number_of_machines(os.environ, ranks)
    accelerator.print(f"{_counted(machines, 'machine')}, {_counted(ranks, 'rank')}, {device}", flush=True)
    if device == "cpu":  # launchers leave one thread to a rank
        cores, ranks_here = len(os.sched_getaffinity(0)), ranks // machines
        torch.set_num_threads(max(1, cores // ranks_here))
        if ranks > 1:
            accelerator.print(f"note: no GPU is used, so {ranks_here} ranks share {cores} CPU cores a machine")
    return accelerator
