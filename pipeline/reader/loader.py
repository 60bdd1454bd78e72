"""The loader: plans a rank's part of each step, has a back end execute it ahead of time, and returns torch batches."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from pipeline.reader.backend import Backend, backend_type
from pipeline.reader.batch import PlannedBatch
from pipeline.reader.faults import BatchFrame, explain_failure
from pipeline.reader.feed import Feed, plan_feed
from pipeline.reader.mixture import DatasetMixture
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.plan import BatchPlan, needed_frames, plan_batch
from pipeline.sampling.views import GLOBAL_VIEWS, view_sizes
from pipeline.settings import UserError

_MOST_SAMPLES = 1 << 62
"""Samples that a run can read; their positions are 64-bit integers."""


def _check_numbers(global_batch: int, steps: range, rank: int, ranks: int) -> None:
    if ranks < 1 or not 0 <= rank < ranks:
        raise UserError(f"there is no rank {rank} of {ranks}: ranks are numbered from 0")
    if global_batch < 1:
        raise UserError(f"the total batch size is {global_batch}; it must be at least 1")
    if global_batch % ranks:
        raise UserError(f"the total batch size {global_batch} does not divide by {ranks} ranks")
    if steps.start < 0 or steps.stop * global_batch > _MOST_SAMPLES:
        raise UserError(
            f"steps {steps.start} to {steps.stop} of {global_batch} samples are out of range: the first is step 0, and "
            f"all steps read at most {_MOST_SAMPLES} samples"
        )


class Loader:
    """Iterator over the batches of one rank.

    The global batch of a step does not depend on `ranks`; rank r gets the r-th of equal contiguous parts. Use it as a
    context manager, which stops all threads and closes all files on exit.
    """

    def __init__(
        self,
        settings: ReaderSettings,
        global_batch: int,
        steps: range,
        rank: int = 0,
        ranks: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """Open the datasets and start to make batches for `device` (default: the CPU).

        Raises:
            UserError: the data or the neighbour table cannot be used, `global_batch` does not divide by `ranks`, or
                a rank or step is out of range.
        """
        _check_numbers(global_batch, steps, rank, ranks)
        self.mixture = DatasetMixture(settings)
        self.dataset = self.mixture.datasets[0]
        self._settings, self._global_batch, self._ranks = settings, global_batch, ranks
        size = global_batch // ranks
        self._part = slice(rank * size, (rank + 1) * size)
        self._unplanned = deque(steps)
        self._planned: deque[BatchPlan] = deque()
        self._prepared: deque[Future[tuple[BatchPlan, Feed]]] = deque()
        self._running: deque[BatchPlan] = deque()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="plan")
        self._unsubmitted = len(self._unplanned)
        self._submit()
        self._auxiliary = 1 if self.mixture.table.neighbours is not None else len(settings.sandwich.auxiliary)
        device = device or torch.device("cpu")
        sizes = view_sizes(settings.views, self._auxiliary)
        make = backend_type(settings.backend_on(device.type))
        self._backend: Backend | None = make(sizes, size, self._feed, settings.threads, settings.prefetch, device)

    def _plan(self, step: int) -> BatchPlan:
        """Plan a step and start to read its shards and frames ahead."""
        self.mixture.request(step * self._global_batch + np.arange(self._global_batch)[self._part])
        plan = plan_batch(self._settings, self.mixture.table, step, self._global_batch, self._part)
        self.mixture.advise(plan)
        return plan

    def _prepare(self) -> tuple[BatchPlan, Feed]:
        """Plan ahead and read the frames of the next batch; runs in the worker thread."""
        while self._unplanned and len(self._planned) <= self._settings.read_ahead:
            self._planned.append(self._plan(self._unplanned.popleft()))
        plan = self._planned.popleft()
        return plan, plan_feed(plan, self._settings.views, self.mixture.planned_frames(plan))

    def _submit(self) -> None:
        if self._unsubmitted:
            self._unsubmitted -= 1
            self._prepared.append(self._worker.submit(self._prepare))

    def _feed(self) -> Feed:
        if not self._prepared:
            raise StopIteration
        plan, feed = self._prepared[0].result()
        self._prepared.popleft()
        self._submit()
        self._running.append(plan)
        return feed

    def _explain(self, error: Exception, backend: Backend) -> UserError:
        """The error that names the frame a back end failed on, most likely one of the oldest batch in progress."""
        frames = []
        for plan in self._running:
            needed = needed_frames(plan)
            for row, frame in zip(plan.source_rows[needed].tolist(), plan.frames[needed].tolist(), strict=True):
                origin = self.mixture.origin(row)
                frames.append(BatchFrame(origin.dataset, origin.row, frame))
        return explain_failure(error, f"in step {self._running[0].step}", frames, backend.decoder)

    def __iter__(self) -> Iterator[PlannedBatch]:
        return self

    def __next__(self) -> PlannedBatch:
        backend = self._backend
        if backend is None:
            raise UserError("this loader is closed: create another one that starts at the next step")
        try:
            views = backend.run()
        except backend.decoder.failures as error:
            raise self._explain(error, backend) from error
        plan = self._running.popleft()
        global_crops, local_crops, *auxiliary = self._tensors(views, len(plan.rows))
        mean_masked = plan.masked_in_global_batch / self._ranks
        return PlannedBatch(
            global_crops=global_crops,
            local_crops=local_crops,
            auxiliary=tuple(auxiliary),
            masks=torch.from_numpy(plan.masks),
            masked_loss_scale=float(plan.masks.sum()) / mean_masked if mean_masked else 1.0,
            plan=plan,
        )

    def _tensors(self, views: Tensor, clips: int) -> list[Tensor]:
        """The global crops, the local crops and the views of each auxiliary frame, without a copy."""
        settings = self._settings.views
        groups = [(GLOBAL_VIEWS, settings.global_size), (settings.local_crops, settings.local_size)]
        groups += [(GLOBAL_VIEWS, settings.global_size)] * self._auxiliary
        shapes = [(count * clips, 3, side, side) for count, side in groups]
        parts = torch.split_with_sizes(views, [math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def close(self) -> None:
        """Stop all threads and close all files."""
        self._worker.shutdown(cancel_futures=True)
        if self._backend is not None:
            self._backend.close()
        self._backend = None
        self.mixture.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
