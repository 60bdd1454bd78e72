"""`python -m training.launch [accelerate's options] training/pretrain.py ...`: `accelerate launch` for job schedulers.

Options and effect are those of `accelerate launch`, but SIGTERM and SIGUSR1 reach the ranks, which save and stop; the
exit status is that of the rank that ended first; and an error that a rank says in one line stays in one line.
"""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

FORWARDED = (signal.SIGTERM, signal.SIGUSR1)


def child_processes() -> list[int]:
    """Ids of this process' children."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(number) for children in lists for number in children.read_text().split()]


def forward(number: int, frame: FrameType | None) -> None:
    """Send a signal on to the ranks."""
    for child in child_processes():
        os.kill(child, number)


def launch(arguments: list[str] | None = None) -> int:
    """Run `accelerate launch` with these arguments; returns the exit status of the first rank that failed, or 0."""
    parsed = launch_command_parser().parse_args(arguments)
    if parsed.config_file and not Path(parsed.config_file).is_file():
        print(f"error: there is no launch file {parsed.config_file}: configs/accelerate/ holds some", file=sys.stderr)
        return 2
    parsed.signals_to_handle = "SIGHUP,SIGQUIT"  # torchrun's option; the others are handled here
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for number in FORWARDED:
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends Ctrl-C to the ranks too
    try:
        launch_command(parsed)
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            why = ", perhaps for want of memory" if failure.exitcode == -signal.SIGKILL else ""
            print(f"error: rank {rank} was ended by signal {-failure.exitcode}{why}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    raise SystemExit(launch())
