"""The plan of a batch: a pure function of seed, step, global batch size, dataset and settings."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.sampling.masks import MaskSettings, draw_masks, mask_sizes
from pipeline.sampling.order import DatasetSize, OrderSettings, sample_order
from pipeline.sampling.philox import Stream, uniforms
from pipeline.sampling.sandwich import SandwichSettings, draw_frames
from pipeline.sampling.sandwich import draws_needed as sandwich_draws
from pipeline.sampling.views import (
    CROP_DRAWS,
    GLOBAL_VIEWS,
    PHOTOMETRY_DRAWS,
    Boxes,
    ColorJitterParams,
    Integers,
    ViewSettings,
    draw_photometry,
    view_boxes,
    view_kinds,
)
from pipeline.settings import Seed, Settings

TRIPLET_FRAMES = {"past": 0, "current": 1, "future": 2}
"""Order of the frames of a sample in layout `triplets`."""
_MOST_OF_FOUR = 0.75
"""Smallest share of 2 x 2 patches that blocks cannot mask, as their sides are shorter than the grid's."""


class PlanSettings(Settings):
    """How samples are ordered, and what is drawn for each."""

    seed: Seed = 0
    """Seed of all draws of the reader."""
    patch_size: int = Field(16, ge=1, le=4096)
    """Side of a patch in pixels; a mask has one element for each patch of a global crop."""
    order: OrderSettings = OrderSettings()
    """How the samples of an epoch are shuffled."""
    sandwich: SandwichSettings = SandwichSettings()
    """Which frames make a triplet."""
    views: ViewSettings = ViewSettings()
    """Crops and colors."""
    masks: MaskSettings = MaskSettings()
    """Masks of the student's global crops."""
    all_auxiliary: bool = False
    """Whether to make auxiliary views for crops without a mask too; only an unaligned teacher uses them."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in a global crop."""
        side = self.views.global_size // self.patch_size
        return side, side

    @model_validator(mode="after")
    def _grid_holds_blocks(self) -> "PlanSettings":
        if self.grid[0] < 2 and self.masks.probability > 0:
            raise ValueError(
                f"views.global_size = {self.views.global_size} holds fewer than 2 x 2 patches of {self.patch_size} "
                "pixels, too few for masks: enlarge it, or set masks.probability to 0"
            )
        if self.grid[0] == 2 and self.masks.probability > 0 and self.masks.ratio[1] >= _MOST_OF_FOUR:
            raise ValueError(
                f"masks.ratio = {self.masks.ratio[0]}, {self.masks.ratio[1]} masks 3 of the 2 x 2 patches of "
                f"views.global_size = {self.views.global_size}, too much for blocks: keep it below {_MOST_OF_FOUR}, or "
                "enlarge views.global_size"
            )
        return self


class SampleTable(NamedTuple):
    """What the plan needs to know about the data, (N,) each; rows are numbered across the datasets."""

    num_frames: Integers
    height: Integers
    width: Integers
    neighbours: Integers | None = None
    """(N, k) rows of the same dataset, one of which gives the auxiliary frame."""
    dataset_sizes: tuple[DatasetSize, ...] = ()
    """The datasets that the rows belong to; empty for a single dataset of one shard."""
    triplets: NDArray[np.bool_] | None = None
    """Which rows hold a past, a current and a future frame, drawn when the shards were written; None for no row."""
    duration_s: NDArray[np.float64] | None = None
    """Durations of the clips, for a sandwich in seconds."""


@dataclass(frozen=True)
class BatchPlan:
    """What one rank decodes, crops, colors and masks in one step, for b clips with A auxiliary frames each.

    The V views are in the order of a `Batch`: the 2 global crops, the local crops, then 2 of each auxiliary frame.
    """

    step: int
    rows: Integers
    """(b,) dataset rows of the clips."""
    source_rows: Integers
    """(b, 1 + A) dataset rows that the current and the auxiliary frames come from."""
    frames: Integers
    """(b, 1 + A) frame numbers within those rows."""
    boxes: Boxes
    """(b, V) crop boxes of the views in their frames."""
    flip: NDArray[np.bool_]
    """(b, V) whether a view is mirrored; only local crops are."""
    photometry: ColorJitterParams
    """(b, V) color parameters of the views."""
    auxiliary_needed: NDArray[np.bool_]
    """(b, 2) whether the auxiliary views for each global crop can reach the loss, that is, whether it is masked."""
    masks: NDArray[np.bool_]
    """(2 b, P) masked patches: global crop 1 of the b clips, then global crop 2."""
    masked_in_global_batch: int
    """Masked patches in the global batch, over all ranks."""


def _source_frames(
    settings: PlanSettings, table: SampleTable, rows: Integers, uniform: NDArray[np.float64]
) -> tuple[Integers, Integers]:
    """(source rows, frame numbers), both (b, 1 + A): a neighbour image if the table has neighbours, else a triplet."""
    if table.neighbours is not None:
        drawn = (uniform[:, 0] * table.neighbours.shape[1]).astype(np.int64)
        source_rows = np.stack([rows, table.neighbours[rows, drawn]], axis=1)
        return source_rows, np.zeros_like(source_rows)
    duration_s = None if table.duration_s is None else table.duration_s[rows]
    frames = draw_frames(settings.sandwich, table.num_frames[rows], uniform, duration_s)
    if table.triplets is not None:
        stored = [TRIPLET_FRAMES[name] for name in ("current", *settings.sandwich.auxiliary)]
        frames = np.where(table.triplets[rows, None], stored, frames)
    return np.repeat(rows[:, None], frames.shape[1], axis=1), frames


def plan_batch(settings: PlanSettings, table: SampleTable, step: int, global_batch: int, part: slice) -> BatchPlan:
    """Plan the samples `part` of the global batch of `step`.

    Each rank takes its own part; what is drawn for a sample does not depend on how the batch is cut.
    """
    views = settings.views
    indices = np.arange(global_batch)[part]
    dataset_sizes = table.dataset_sizes or (DatasetSize((len(table.num_frames),)),)
    epochs, rows = sample_order(settings.order, settings.seed, step * global_batch + indices, dataset_sizes)
    auxiliary = len(settings.sandwich.auxiliary) if table.neighbours is None else 1
    kinds = view_kinds(views, auxiliary)
    crops = GLOBAL_VIEWS + views.local_crops

    sections = np.cumsum([sandwich_draws(settings.sandwich), CROP_DRAWS * crops, crops, PHOTOMETRY_DRAWS * len(kinds)])
    drawn = uniforms(settings.seed, Stream.SAMPLE, epochs, rows, int(sections[-1]))
    for_frames, for_boxes, for_flips, for_colors = np.split(drawn, sections[:-1], axis=1)

    source_rows, frames = _source_frames(settings, table, rows, for_frames)
    height, width = table.height[source_rows], table.width[source_rows]
    flip = np.zeros((len(rows), len(kinds)), bool)
    flip[:, GLOBAL_VIEWS:crops] = for_flips[:, GLOBAL_VIEWS:] < views.local_flip

    patches = settings.grid[0] * settings.grid[1]
    sizes = mask_sizes(settings.masks, settings.seed, step, GLOBAL_VIEWS * global_batch, patches)
    masked = np.concatenate([indices, global_batch + indices])
    return BatchPlan(
        step=step,
        rows=rows,
        source_rows=source_rows,
        frames=frames,
        boxes=view_boxes(views, height, width, for_boxes.reshape(len(rows), crops, CROP_DRAWS)),
        flip=flip,
        photometry=draw_photometry(views, kinds, for_colors.reshape(*flip.shape, PHOTOMETRY_DRAWS)),
        auxiliary_needed=((sizes[masked] > 0) | settings.all_auxiliary).reshape(GLOBAL_VIEWS, len(rows)).T,
        masks=draw_masks(sizes[masked], masked, settings.seed, step, settings.grid),
        masked_in_global_batch=int(sizes.sum()),
    )


def needed_frames(plan: BatchPlan) -> NDArray[np.bool_]:
    """(b, 1 + A) bool: the frames of a plan that are read; auxiliary ones only if a global crop is masked."""
    needed = np.ones(plan.frames.shape, bool)
    needed[:, 1:] = plan.auxiliary_needed.any(axis=1, keepdims=True)
    return needed
