"""Collective operations that keep a rank from waiting for another one that has failed."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from pipeline.settings import UserError
from pipeline.storage import open_storage

LOCK = ".training.lock"

Result = TypeVar("Result")


class HostCopy:
    """The values of a tensor, on their way to the host while it goes on."""

    def __init__(self, tensor: Tensor) -> None:
        self._values = tensor.to("cpu", non_blocking=True)  # torch makes it pinned memory
        self._copied = torch.cuda.Event() if tensor.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def read(self) -> list[float]:
        """Wait for the copy, but for nothing that was queued after it, and return the values."""
        if self._copied is not None:
            self._copied.synchronize()
        values: list[float] = self._values.tolist()
        return values


def all_reduce_max(accelerator: Accelerator, *flags: int | Tensor) -> Tensor:
    """The largest value of each flag over all ranks, which call this together; float32, on the device.

    Flags are numbers below 2 ** 24 or scalar tensors on the device. The host does not wait.
    """
    device = accelerator.device
    tensors = [flag if isinstance(flag, Tensor) else torch.full((), flag, device=device) for flag in flags]
    reduced = torch.stack([flag.float() for flag in tensors])
    if accelerator.num_processes > 1:
        distributed.all_reduce(reduced, distributed.ReduceOp.MAX)
    return reduced


class Attempt(Generic[Result]):
    """A call that may have failed on this rank, or on another one: `flag` tells the others, `result` raises."""

    def __init__(self, rank: int, act: Callable[[], Result]) -> None:
        """Call `act` on this rank."""
        self._rank = rank
        self._failure: Exception | None = None
        self.flag = 0
        """0, or this rank's number plus 1 if the call failed."""
        try:
            self._result = act()
        except Exception as error:
            self._failure, self.flag = error, rank + 1

    def result(self, largest_flag: int) -> Result:
        """What `act` returned, if the largest flag of all ranks is 0.

        Raises:
            Exception: `act` raised it on this rank.
            UserError: `act` failed on another rank.
        """
        if self._failure is not None:
            raise self._failure
        if largest_flag:
            raise UserError(f"rank {self._rank} stops because rank {largest_flag - 1} failed: see that rank's error")
        return self._result


def raise_on_all_ranks(accelerator: Accelerator, act: Callable[[], Result]) -> Result:
    """Call `act` on all ranks and return its result; if it fails on one rank, all raise.

    Raises:
        Exception: `act` raised it on this rank.
        UserError: `act` failed on another rank.
    """
    attempt = Attempt(accelerator.process_index, act)
    (largest_flag,) = HostCopy(all_reduce_max(accelerator, attempt.flag)).read()
    return attempt.result(int(largest_flag))


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def exclusive_run(accelerator: Accelerator, out: Path) -> Iterator[None]:
    """Context in which no other run can write to the folder `out`; all ranks enter it, the main one holds the lock.

    Temporary files of a run that was killed are removed, and a new folder in which nothing was written.

    Raises:
        UserError: another run is writing to the folder, or it is not writable.
    """
    storage = open_storage(str(out))
    new = not out.exists()
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            if accelerator.is_main_process:
                if new:
                    stack.callback(_remove_empty, out)
                stack.enter_context(storage.exclusive_lock(LOCK))
                storage.clean()

        raise_on_all_ranks(accelerator, enter)
        yield
