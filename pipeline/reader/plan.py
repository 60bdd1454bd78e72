"""The plan of a batch: a pure function of seed, step, global batch size, dataset and settings."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.reader.masks import MaskSettings, draw_masks, mask_sizes
from pipeline.reader.order import visits
from pipeline.reader.philox import Stream, uniforms
from pipeline.reader.sandwich import SandwichSettings, draw_frames
from pipeline.reader.sandwich import draws_needed as sandwich_draws
from pipeline.reader.views import (
    CROP_DRAWS,
    GLOBAL_VIEWS,
    PHOTOMETRY_DRAWS,
    Boxes,
    Integers,
    Photometry,
    ViewSettings,
    centre_boxes,
    draw_photometry,
    random_boxes,
)
from pipeline.settings import Settings

LOCAL_KIND = 2


class PlanSettings(Settings):
    """Everything that is drawn for a sample."""

    seed: int = Field(0, ge=0)
    """Seed of all draws of the reader."""
    patch_size: int = Field(16, ge=1)
    """Side of a patch in pixels; masks lie on the grid of patches of a global crop."""
    sandwich: SandwichSettings = SandwichSettings()
    """Which frames make a triplet."""
    views: ViewSettings = ViewSettings()
    """Crops and colours."""
    masks: MaskSettings = MaskSettings()
    """Masks of the student's global crops."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in a global crop."""
        side = self.views.global_size // self.patch_size
        return side, side


class SampleTable(NamedTuple):
    """What the plan must know of a dataset, (N,) each; `neighbours` (N, k) are rows of the same dataset."""

    num_frames: Integers
    height: Integers
    width: Integers
    neighbours: Integers | None = None


@dataclass(frozen=True)
class BatchPlan:
    """What one rank decodes, crops, colours and masks in one step, for b clips with A auxiliary frames each.

    Current views are numbered: the 2 global crops, then the local crops. Auxiliary views are numbered frame by frame,
    two each.
    """

    step: int
    rows: Integers
    """(b,) dataset rows of the clips."""
    source_rows: Integers
    """(b, 1 + A) dataset rows that the current and the auxiliary frames come from."""
    frames: Integers
    """(b, 1 + A) frame numbers within those rows."""
    boxes: Boxes
    """(b, 2 + local crops) boxes in the current frame."""
    flip: NDArray[np.bool_]
    """(b, 2 + local crops): mirrored or not."""
    photometry: Photometry
    """(b, 2 + local crops) colours of the current views."""
    auxiliary_boxes: Boxes
    """(b, A) one box for both views of an auxiliary frame."""
    auxiliary_photometry: Photometry
    """(b, 2 A) colours of the auxiliary views."""
    masks: NDArray[np.bool_]
    """(2 b, P) masked patches: global crop 1 of the b clips, then global crop 2."""
    masked_in_global_batch: int
    """Masked patches in the global batch, over all ranks."""


def _auxiliary_frames(
    settings: PlanSettings, table: SampleTable, rows: Integers, uniform: NDArray[np.float64]
) -> tuple[Integers, Integers]:
    """(source rows, frame numbers), both (b, 1 + A): a neighbour image if the table has neighbours, else a triplet."""
    if table.neighbours is None:
        frames = draw_frames(settings.sandwich, table.num_frames[rows], uniform)
        return np.repeat(rows[:, None], frames.shape[1], axis=1), frames
    drawn = (uniform[:, 0] * table.neighbours.shape[1]).astype(np.int64)
    source_rows = np.stack([rows, table.neighbours[rows, drawn]], axis=1)
    return source_rows, np.zeros_like(source_rows)


def plan_batch(settings: PlanSettings, table: SampleTable, step: int, global_batch: int, part: slice) -> BatchPlan:
    """Plan places `part` of the global batch of `step`.

    Ranks and micro-batches take disjoint parts; what a place gets does not depend on how the batch is cut.
    """
    views = settings.views
    places = np.arange(global_batch)[part]
    visit = visits(settings.seed, step, global_batch, len(table.num_frames))
    rows, epoch = visit.row[part], visit.epoch[part]
    auxiliary = len(settings.sandwich.auxiliary) if table.neighbours is None else 1
    current_views = GLOBAL_VIEWS + views.local_crops
    all_views = current_views + GLOBAL_VIEWS * auxiliary

    sections = np.cumsum(
        [sandwich_draws(settings.sandwich), CROP_DRAWS * current_views, current_views, PHOTOMETRY_DRAWS * all_views]
    )
    drawn = uniforms(settings.seed, Stream.SAMPLE, epoch, rows, int(sections[-1]))
    for_frames, for_boxes, for_flips, for_colours = np.split(drawn, sections[:-1], axis=1)

    source_rows, frames = _auxiliary_frames(settings, table, rows, for_frames)
    height, width = table.height[source_rows], table.width[source_rows]
    in_global_crop = np.arange(current_views) < GLOBAL_VIEWS
    box_draws = for_boxes.reshape(len(rows), current_views, CROP_DRAWS)
    boxes = [
        random_boxes(height[:, 0], width[:, 0], views.global_area if large else views.local_area, box_draws[:, view])
        for view, large in enumerate(in_global_crop)
    ]
    kinds = np.minimum(np.arange(current_views), LOCAL_KIND)
    auxiliary_kinds = np.tile(np.arange(GLOBAL_VIEWS), auxiliary)
    colour_draws = for_colours.reshape(len(rows), all_views, PHOTOMETRY_DRAWS)

    patches = settings.grid[0] * settings.grid[1]
    sizes = mask_sizes(settings.masks, settings.seed, step, GLOBAL_VIEWS * global_batch, patches)
    crops = np.concatenate([places, global_batch + places])
    return BatchPlan(
        step=step,
        rows=rows,
        source_rows=source_rows,
        frames=frames,
        boxes=Boxes(*(np.stack(edge, axis=1) for edge in zip(*boxes, strict=True))),
        flip=(for_flips < views.local_flip) & ~in_global_crop,
        photometry=draw_photometry(views, kinds, colour_draws[:, :current_views]),
        auxiliary_boxes=centre_boxes(height[:, 1:], width[:, 1:]),
        auxiliary_photometry=draw_photometry(views, auxiliary_kinds, colour_draws[:, current_views:]),
        masks=draw_masks(sizes[crops], crops, settings.seed, step, settings.grid),
        masked_in_global_batch=int(sizes.sum()),
    )
