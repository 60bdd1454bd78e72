"""The torch back end: a pool of threads, each of which makes the views of one clip at a time."""

import itertools
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.jpeg import JpegError
from pipeline.reader.faults import FrameDecoder
from pipeline.reader.feed import Feed
from pipeline.reader.pixels import ViewMaker, decode


def start_pool(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads compute on one core each, so that sums have the same order for any number of threads.

    The number of cores for operations of other threads stays as it is.
    """
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # the first operation of a thread sets its number, so it has to come first
        torch.set_num_threads(1)  # of this thread, and of those that start after it
        started.wait()

    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="views", initializer=start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(cores)
    return pool


class BatchMemory:
    """Blocks of memory for batches. A block is used again once the last tensor in it is gone."""

    def __init__(self, elements: int) -> None:
        self._elements = elements
        self._free: list[Tensor] = []

    def block(self) -> Tensor:
        """(elements,) float32 with any values."""
        block = self._free.pop() if self._free else torch.empty(self._elements, dtype=torch.float32)
        lent = block.numpy()  # an object that lives as long as the tensors made from it
        weakref.finalize(lent, self._free.append, block).atexit = False
        return torch.from_numpy(lent)


def _size(jpeg: NDArray[np.uint8]) -> tuple[int, int]:
    height, width, _ = decode(jpeg).shape
    return width, height


class TorchBackend:
    """Views of batches, made by CPU cores; see `pipeline.reader.backend.Backend`.

    For a GPU, batches are made in pinned memory and copied on a stream of their own.
    """

    decoder = FrameDecoder("torch", (ValueError, RuntimeError, MemoryError, JpegError), lambda: _size)

    def __init__(
        self,
        sizes: Sequence[int],
        clips: int,
        feed: Callable[[], Feed],
        threads: int,
        prefetch: int,
        device: torch.device,
    ) -> None:
        runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
        self._shapes = [(views, clips, 3, size, size) for size, views in runs]
        self._elements = [math.prod(shape) for shape in self._shapes]
        self._clips, self._feed, self._prefetch, self._device = clips, feed, prefetch, device
        self._memory = BatchMemory(sum(self._elements))
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._maker = ViewMaker()
        self._pool = start_pool(threads)
        self._started: deque[tuple[Tensor, list[Future[None]]]] = deque()

    def _block(self) -> Tensor:
        """Memory for the views of a batch."""
        if self._stream is None:
            return self._memory.block()
        return torch.empty(sum(self._elements), dtype=torch.float32, pin_memory=True)  # PyTorch keeps it for later ones

    def _start(self) -> None:
        """Start to make as many batches as are prepared ahead."""
        while len(self._started) < self._prefetch:
            try:
                feed = self._feed()
            except StopIteration:
                return
            block = self._block()
            parts = zip(torch.split_with_sizes(block, self._elements), self._shapes, strict=True)
            views = [part.view(shape) for part, shape in parts]
            clips = [self._pool.submit(self._maker.clip, feed, clip, views) for clip in range(self._clips)]
            self._started.append((block, clips))

    def run(self) -> Tensor:
        """The views of the next batch."""
        self._start()
        if not self._started:
            raise StopIteration
        block, clips = self._started[0]
        for clip in clips:
            clip.result()
        self._started.popleft()
        self._start()
        return block if self._stream is None else self._copy(block, self._stream)

    def _copy(self, block: Tensor, stream: torch.cuda.Stream) -> Tensor:
        """A block on the GPU: what is queued there next waits for the copy, and the host does not."""
        with torch.cuda.stream(stream):
            views = block.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(stream)
        views.record_stream(current)
        return views

    def close(self) -> None:
        """Stop all threads."""
        self._pool.shutdown(cancel_futures=True)
