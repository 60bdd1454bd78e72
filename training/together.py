"""What the ranks of a run do together, so that none waits for one that has ended."""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import distributed

from pipeline.settings import UserError

Result = TypeVar("Result")


def largest(accelerator: Accelerator, flags: list[int]) -> list[int]:
    """The largest value of each flag over all ranks, which call it together."""
    tensor = torch.tensor(flags, device=accelerator.device)
    if accelerator.num_processes > 1:
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    agreed: list[int] = tensor.tolist()
    return agreed


def all_or_none(accelerator: Accelerator, act: Callable[[], Result]) -> Result:
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
    (failed,) = largest(accelerator, [accelerator.process_index + 1 if failure else 0])
    if failure:
        raise failure
    if failed:
        raise UserError(f"rank {accelerator.process_index} stops because rank {failed - 1} failed, which says why")
    return result
