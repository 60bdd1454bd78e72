"""`python -m training.launch [accelerate's options] training/pretrain.py ...`: `accelerate launch` for job schedulers.

It takes the options of `accelerate launch` and does the same, with four differences: SIGTERM and SIGUSR1 reach the
ranks, which save and stop; the exit status is that of the rank that ended first; no traceback follows the error of a
rank; and a launch that would start fewer ranks than requested, or change their results, is refused.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path

import yaml
from accelerate.commands.config.config_args import default_config_file
from accelerate.commands.launch import (
    _validate_launch_command,
    launch_command_parser,
    multi_gpu_launcher,
    simple_launcher,
)
from accelerate.utils import ComputeEnvironment
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pipeline.presets import load_yaml
from pipeline.settings import UserError
from training.backbone.device import default_device
from training.backbone.numerics import refuse_hidden_settings
from training.environment import ACCELERATE
from training.signals import exit_status

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def child_processes() -> list[int]:
    """Process ids of the children of this process."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(number) for children in lists for number in children.read_text().split()]


def forward(number: int) -> None:
    """Send a signal on to the ranks; before there are any, while other machines are waited for, end this process."""
    children = child_processes()
    for child in children:
        if number != signal.SIGINT or os.getpgid(child) != os.getpgrp():  # a terminal sends Ctrl-C to its whole group
            os.kill(child, number)
    if not children:
        os._exit(exit_status(number))


def forward_signals() -> None:
    """`forward` signals in a thread: the main thread may wait inside PyTorch, where Python handles none."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def run() -> None:
        while received := os.read(reader, 1):
            if received[0] in FORWARDED:
                forward(received[0])

    for number in FORWARDED:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer)
    threading.Thread(target=run, name="signals", daemon=True).start()


def resolve(parsed: Namespace) -> Namespace:
    """Add the launch file and the defaults to the options; without --config_file, Accelerate's own file is used.

    Raises:
        UserError: they contradict each other or need other machines, or the file cannot be read.
    """
    if parsed.config_file and not Path(parsed.config_file).is_file():
        raise UserError(f"there is no launch file {parsed.config_file}: configs/accelerate/ holds some")
    file = parsed.config_file or ("" if parsed.cpu or not Path(default_config_file).is_file() else default_config_file)
    if file and not parsed.config_file:
        print(f"note: without --config_file, this run is started as {file} says", flush=True)
    if file and not load_yaml(Path(file)):
        raise UserError(f"the launch file {file} is empty: configs/accelerate/ holds some")
    try:
        options, defaults, _ = _validate_launch_command(parsed)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, yaml.YAMLError) as error:
        message = f"the launch file {file}" if file else "these options of the launcher"
        raise UserError(f"cannot start with {message}: {' '.join(str(error).split())}") from error
    if options.tpu or (defaults and defaults.compute_environment != ComputeEnvironment.LOCAL_MACHINE):
        message = f"the launch file {file} is" if file else "--tpu is"
        raise UserError(f"{message} for machines of another kind: give one of configs/accelerate/ with --config_file")
    resolved: Namespace = options
    return resolved


def starts_ranks(options: Namespace) -> bool:
    """Whether Accelerate starts ranks that communicate; otherwise it starts a single process."""
    return bool(options.multi_gpu or options.use_fsdp) and not options.cpu


def check_ranks(options: Namespace) -> None:
    """Check that the requested number of ranks will start.

    Raises:
        UserError: fewer would start; names the flag.
    """
    counts = {"num_processes": options.num_processes, "num_machines": options.num_machines}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"--{name} {count}: must be at least 1")
    processes, machines = options.num_processes or 1, options.num_machines or 1
    if starts_ranks(options):
        if processes % machines:
            raise UserError(
                f"--num_processes {processes} counts the processes of all machines and does not divide by "
                f"--num_machines {machines}: give a multiple of it"
            )
    elif max(processes, machines) > 1 and options.mpirun_hostfile is None:
        where = "" if machines == 1 else f" on each of {machines} machines"
        flag = (
            "--config_file configs/accelerate/cpu.yaml in place of --cpu"
            if options.cpu or options.use_cpu
            else "--multi_gpu"
        )
        raise UserError(
            f"--num_processes {processes} and --num_machines {machines} would start one process{where} that trains "
            f"alone: give {flag}, or a launch file with distributed_type: MULTI_GPU"
        )


def check_settings(options: Namespace) -> None:
    """Check that flags and launch file do not change what the ranks compute.

    Raises:
        UserError: they do.
    """
    requested = {
        "ACCELERATE_MIXED_PRECISION": options.mixed_precision,
        "ACCELERATE_DYNAMO_BACKEND": options.dynamo_backend,
        "ACCELERATE_USE_DEEPSPEED": options.use_deepspeed,
        "ACCELERATE_USE_MEGATRON_LM": options.use_megatron_lm,
        "ACCELERATE_USE_PARALLELISM_CONFIG": options.use_parallelism_config,
    }
    refuse_hidden_settings({**os.environ, **{name: str(value) for name, value in requested.items()}}, ACCELERATE)


def check_device(options: Namespace) -> None:
    """Check, once for all ranks, that they will not train on the CPU although there is a GPU.

    `use_cpu` is put into the environment: Accelerate passes it on to a single process, but not to several.

    Raises:
        UserError: PyTorch cannot use the GPU, and neither options nor environment ask for the CPU.
    """
    if options.cpu or options.use_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    visible = {} if options.gpu_ids in (None, "all") else {"CUDA_VISIBLE_DEVICES": options.gpu_ids}
    default_device({**os.environ, **visible})


def launch(arguments: list[str] | None = None) -> int:
    """Run `accelerate launch` with these arguments; return the exit status of the first rank that failed, or 0."""
    parsed = launch_command_parser().parse_args(arguments)
    parsed.signals_to_handle = "SIGHUP,SIGQUIT"  # of torchrun; the others are handled here
    try:
        options = resolve(parsed)
        check_settings(options)
        check_ranks(options)
        check_device(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    forward_signals()
    try:
        (multi_gpu_launcher if starts_ranks(options) else simple_launcher)(options)
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            why = ", possibly out of memory" if failure.exitcode == -signal.SIGKILL else ""
            print(f"error: rank {rank} was killed by signal {-failure.exitcode}{why}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except (AssertionError, ValueError, TypeError, OSError) as error:  # options that a launcher refuses
        print(f"error: cannot start the ranks: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(launch())
