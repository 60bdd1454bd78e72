"""Collective operations that keep a rank from waiting for another one that has failed."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from pipeline.settings import UserError
from pipeline.storage import open_storage

LOCK = ".training.lock"

Result = TypeVar("Result")


def all_reduce_max(accelerator: Accelerator, *flags: int | Tensor) -> list[int]:
    """The largest value of each flag over all ranks, which call this together.

    Flags are numbers or scalar tensors on the device; the host waits for the device once, at the end.
    """
    device = accelerator.device
    tensors = [flag if isinstance(flag, Tensor) else torch.full((), flag, device=device) for flag in flags]
    tensor = torch.stack([flag.long() for flag in tensors])
    if accelerator.num_processes > 1:
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    reduced: list[int] = tensor.tolist()
    return reduced


def raise_on_all_ranks(accelerator: Accelerator, act: Callable[[], Result]) -> Result:
    """Call `act` on all ranks and return its result; if it fails on one rank, all raise.

    Raises:
        Exception: `act` raised it on this rank.
        UserError: `act` failed on another rank.
    """
    failure: Exception | None = None
    try:
        result = act()
    except Exception as error:
        failure = error
    (failed,) = all_reduce_max(accelerator, accelerator.process_index + 1 if failure else 0)
    if failure:
        raise failure
    if failed:
        raise UserError(
            f"rank {accelerator.process_index} stops because rank {failed - 1} failed: see that rank's error"
        )
    return result


@contextlib.contextmanager
def exclusive_run(accelerator: Accelerator, out: Path) -> Iterator[None]:
    """Context in which no other run can write to the folder `out`; all ranks enter it, the main one holds the lock.

    Temporary files of a run that was killed are removed.

    Raises:
        UserError: another run is writing to the folder, or it is not writable.
    """
    storage = open_storage(str(out))
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            if accelerator.is_main_process:
                stack.enter_context(storage.exclusive_lock(LOCK))
                storage.clean()

        raise_on_all_ranks(accelerator, enter)
        yield
