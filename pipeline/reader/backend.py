"""What executes plans: DALI or torch, which take the same inputs and make the same views."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.reader.faults import FrameDecoder
from pipeline.reader.feed import Feed


class Backend(Protocol):
    """Makes the views of one batch after another, some of them ahead of time."""

    decoder: FrameDecoder
    """How it decodes, and the errors of `run` if a frame cannot be used."""

    def __init__(
        self,
        sizes: Sequence[int],
        clips: int,
        feed: Callable[[], Feed],
        threads: int,
        prefetch: int,
        device: torch.device,
    ) -> None:
        """Make views of `sizes` (V,) pixels of `clips` clips on `device`, with `threads` CPU threads.

        `feed` is called once for each batch and ends them by raising StopIteration. It is called for up to `prefetch`
        batches that `run` has not returned yet.
        """

    def run(self) -> Tensor:
        """The views of the next batch in one flat block of float32: view 1 of all clips, then view 2, and so on.

        Each is (3, size, size), normalized, and zeros if it is not needed. After an error, the next call raises too.

        Raises:
            StopIteration: there are no more batches.
        """
        ...

    def close(self) -> None:
        """Stop all threads."""


def backend_type(name: str) -> type[Backend]:
    """The back end `dali` or `torch`, whose libraries are imported only here."""
    if name == "dali":
        from pipeline.reader.dali import DaliBackend

        return DaliBackend
    from pipeline.reader.threads import TorchBackend

    return TorchBackend
