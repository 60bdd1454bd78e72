"""The loader: plans a rank's part of each step, lets DALI execute it ahead of time, and hands out torch batches."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from pydantic import Field

from indexing.table import read_neighbours
from pipeline.dataset import ShardDataset
from pipeline.reader.batch import Batch
from pipeline.reader.graph import Feed, auxiliary_names, build_graph, view_feed
from pipeline.reader.plan import BatchPlan, PlanSettings, SampleTable, plan_batch
from pipeline.reader.views import GLOBAL_VIEWS, Boxes, Photometry
from pipeline.settings import UserError
from pipeline.shards.images import check_jpeg
from pipeline.shards.rejects import Rejected


class ReaderSettings(PlanSettings):
    """Where the samples come from and what is made of them."""

    shards: Path
    """Folder of a shard dataset."""
    neighbours: Path | None = None
    """Folder with `neighbours.parquet`: the auxiliary frame is then one of an image's nearest neighbours."""
    threads: int = Field(2, ge=1)
    """CPU threads of DALI on each rank."""
    prefetch: int = Field(2, ge=1)
    """Batches that DALI prepares ahead."""


def _columns(boxes: Boxes, photometry: Photometry, mirror: np.ndarray, box: int, view: int) -> dict[str, np.ndarray]:
    """The parameters of one view, (b,) each."""
    edges = {name: edge[:, box] for name, edge in boxes._asdict().items()}
    colours = {name: values[:, view] for name, values in vars(photometry).items()}
    return {**edges, **colours, "mirror": mirror[:, box]}


def plan_feed(plan: BatchPlan, dataset: ShardDataset) -> Feed:
    """Encoded frames and parameters of `plan` as graph inputs."""
    auxiliary = plan.frames.shape[1] - 1
    feed: Feed = {}
    for column, name in enumerate(["current", *auxiliary_names(auxiliary)]):
        places = zip(plan.source_rows[:, column].tolist(), plan.frames[:, column].tolist(), strict=True)
        feed[name] = [dataset.frame(row, frame) for row, frame in places]
    for view in range(plan.flip.shape[1]):
        feed |= view_feed("current", view, _columns(plan.boxes, plan.photometry, plan.flip, view, view))
    unmirrored = np.zeros((len(plan.rows), auxiliary), bool)
    for number, name in enumerate(auxiliary_names(auxiliary)):
        for view in range(GLOBAL_VIEWS):
            columns = _columns(
                plan.auxiliary_boxes, plan.auxiliary_photometry, unmirrored, number, GLOBAL_VIEWS * number + view
            )
            feed |= view_feed(name, view, columns)
    return feed


def sample_table(dataset: ShardDataset, neighbours: Path | None, auxiliary: int) -> SampleTable:
    """What the plan needs of `dataset`.

    Raises:
        UserError: the neighbours belong to other shards, or frames of time are asked of still images.
    """
    if neighbours is None and dataset.manifest.media == "images" and auxiliary:
        raise UserError(
            f"{dataset.folder} holds still images, which have no past and future: give --data.neighbours, "
            "or set data.sandwich.auxiliary to an empty list to train without the auxiliary branch"
        )
    table = None if neighbours is None else read_neighbours(neighbours, dataset.manifest).astype(np.int64)
    num_frames, height, width = (
        column.astype(np.int64) for column in (dataset.num_frames, dataset.height, dataset.width)
    )
    return SampleTable(num_frames, height, width, table)


class Loader:
    """Iterator over the batches of one rank, from `first_step` up to but not including `last_step`.

    The global batch of a step is the same whatever `ranks` is; rank r gets the r-th of equal contiguous parts.
    Use it as a context manager: leaving it stops DALI's threads.
    """

    def __init__(
        self,
        settings: ReaderSettings,
        global_batch: int,
        first_step: int,
        last_step: int,
        rank: int = 0,
        ranks: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """Open the dataset and build the DALI graph; on a CUDA `device` decoding and views run there.

        Raises:
            UserError: the dataset or the neighbour table cannot be used, or `global_batch` does not divide by `ranks`.
        """
        if global_batch % ranks:
            raise UserError(f"the total batch size {global_batch} does not divide by {ranks} ranks")
        self.dataset = ShardDataset(settings.shards)
        self._settings = settings
        self.table = sample_table(self.dataset, settings.neighbours, len(settings.sandwich.auxiliary))
        if not len(self.dataset):
            raise UserError(f"{settings.shards} holds no samples")
        self._global_batch, self._ranks = global_batch, ranks
        size = global_batch // ranks
        self._part = slice(rank * size, (rank + 1) * size)
        self._planned = first_step
        self._last_step = last_step
        self._plans: list[BatchPlan] = []
        self._device = device or torch.device("cpu")
        self._auxiliary = 1 if self.table.neighbours is not None else len(settings.sandwich.auxiliary)
        self._pipeline = build_graph(
            settings.views,
            self._auxiliary,
            size,
            self._feed,
            settings.threads,
            (self._device.index or 0) if self._device.type == "cuda" else None,
            settings.prefetch,
        )

    def _feed(self) -> Feed:
        if self._planned >= self._last_step:
            raise StopIteration
        plan = plan_batch(self._settings, self.table, self._planned, self._global_batch, self._part)
        self._planned += 1
        self._plans.append(plan)
        return plan_feed(plan, self.dataset)

    def _blame(self, plan: BatchPlan, error: RuntimeError) -> UserError:
        """Name the frame that DALI could not decode."""
        for row, frame in zip(plan.source_rows.ravel().tolist(), plan.frames.ravel().tolist(), strict=True):
            try:
                check_jpeg(self.dataset.frame(row, frame).tobytes())
            except Rejected as rejected:
                shard = self.dataset.manifest.shards[self.dataset.shard[row]].file
                key = self.dataset.keys[row]
                return UserError(
                    f"frame {frame} of sample {key} in {self.dataset.folder / shard} is damaged: {rejected.detail}. "
                    "Delete the dataset folder and run `make shards` again"
                )
        return UserError(f"DALI failed in step {plan.step}: {error}")

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            outputs = self._pipeline.run()
        except RuntimeError as error:
            raise self._blame(self._plans[0], error) from error
        plan = self._plans.pop(0)
        tensors = [torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in outputs]
        current = GLOBAL_VIEWS + self._settings.views.local_crops
        local = tensors[GLOBAL_VIEWS:current]
        mean_masked = plan.masked_in_global_batch / self._ranks
        return Batch(
            global_crops=torch.cat(tensors[:GLOBAL_VIEWS]),
            local_crops=torch.cat(local) if local else tensors[0].new_empty(0, 3, 0, 0),
            auxiliary=tuple(
                torch.cat(tensors[first : first + GLOBAL_VIEWS]) for first in range(current, len(tensors), GLOBAL_VIEWS)
            ),
            masks=torch.from_numpy(plan.masks).to(self._device),
            masked_share=float(plan.masks.sum()) / mean_masked if mean_masked else 1.0,
            step=plan.step,
            rows=torch.from_numpy(plan.rows),
        )

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._pipeline
