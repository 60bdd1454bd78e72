"""What the ranks of a run do together, so that none waits for one that has ended."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import distributed

from pipeline.settings import UserError
from pipeline.storage import open_storage

LOCK = ".training.lock"

Result = TypeVar("Result")


def all_reduce_max(accelerator: Accelerator, flags: list[int]) -> list[int]:
    """The largest value of each flag over all ranks, which call it together."""
    tensor = torch.tensor(flags, device=accelerator.device)
    if accelerator.num_processes > 1:
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    agreed: list[int] = tensor.tolist()
    return agreed


def raise_on_all_ranks(accelerator: Accelerator, act: Callable[[], Result]) -> Result:
    """The result of `act`, which all ranks call together; where it fails on one of them, all raise.

    Raises:
        Exception: what `act` raised on this rank.
        UserError: it failed on another one.
    """
    failure: Exception | None = None
    try:
        result = act()
    except Exception as error:
        failure = error
    (failed,) = all_reduce_max(accelerator, [accelerator.process_index + 1 if failure else 0])
    if failure:
        raise failure
    if failed:
        raise UserError(
            f"rank {accelerator.process_index} stops because rank {failed - 1} failed: see that rank's error"
        )
    return result


@contextlib.contextmanager
def exclusive_run(accelerator: Accelerator, out: Path) -> Iterator[None]:
    """Keep other runs out of the folder `out` while the block runs; all ranks call it, the main one holds the lock.

    What a killed run left half-written in the folder is removed.

    Raises:
        UserError: another run is in it, or it cannot be written.
    """
    storage = open_storage(str(out))
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            if accelerator.is_main_process:
                stack.enter_context(storage.exclusive_lock(LOCK))
                storage.clean()

        raise_on_all_ranks(accelerator, enter)
        yield
