"""A batch plan as the inputs of the DALI graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.reader.colour import blur_kernel, colour_map, is_coloured
from pipeline.reader.graph import Feed, auxiliary_names
from pipeline.reader.plan import BatchPlan
from pipeline.reader.views import GLOBAL_VIEWS, SOLARIZE_OFF, Boxes, Photometry


def _columns(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """(V, b, ...) for (b, V, ...), so that every column is contiguous, as DALI wants it."""
    return np.ascontiguousarray(np.moveaxis(values, 1, 0), dtype)


def box_feed(prefixes: Sequence[str], boxes: Boxes) -> Feed:
    """Corner and size of crop boxes (b, C), those of column c under the c-th of the prefixes."""
    start = _columns(np.stack([boxes.top, boxes.left], axis=-1), np.int32)
    shape = _columns(np.stack([boxes.height, boxes.width], axis=-1), np.int32)
    starts = {f"{prefix}.start": start[column] for column, prefix in enumerate(prefixes)}
    return starts | {f"{prefix}.shape": shape[column] for column, prefix in enumerate(prefixes)}


def colour_feed(prefixes: Sequence[str], photometry: Photometry) -> Feed:
    """Colours of views (b, V), those of column v under the v-th of the prefixes."""
    colours = colour_map(photometry)
    values = {
        "matrix": _columns(colours.matrix, np.float32),
        "weights": _columns(colours.weights, np.float32),
        "coloured": _columns(is_coloured(photometry), bool),
        "kernel": _columns(blur_kernel(photometry.sigma)[..., None, :], np.float32),
        "blurred": _columns(photometry.sigma > 0, bool),
        "solarized": _columns(photometry.solarize < SOLARIZE_OFF, bool),
    }
    return {f"{p}.{name}": value[v] for v, p in enumerate(prefixes) for name, value in values.items()}


def plan_feed(plan: BatchPlan, frames: Sequence[Sequence[np.ndarray]]) -> Feed:
    """Graph inputs of a plan: its parameters, and the encoded `frames`, a list of b arrays for each of its columns."""
    current = [f"current.{crop}" for crop in range(plan.flip.shape[1])]
    feed: Feed = {"current": frames[0]}
    feed |= box_feed(current, plan.boxes)
    feed |= colour_feed([f"{prefix}.0" for prefix in current], plan.photometry)
    mirror = _columns(plan.flip, np.int32)
    feed |= {f"{prefix}.0.mirror": mirror[crop] for crop, prefix in enumerate(current)}
    names = auxiliary_names(len(frames) - 1)
    views = [f"{name}.0.{view}" for name in names for view in range(GLOBAL_VIEWS)]
    feed |= box_feed([f"{name}.0" for name in names], plan.auxiliary_boxes)
    feed |= colour_feed(views, plan.auxiliary_photometry)
    needed = _columns(plan.auxiliary_needed, bool)
    for name, encoded in zip(names, frames[1:], strict=True):
        feed |= {name: encoded, f"{name}.needed": needed.any(axis=0)}
        feed |= {f"{name}.0.{view}.needed": needed[view] for view in range(GLOBAL_VIEWS)}
    return feed
