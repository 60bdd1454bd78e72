"""A batch plan as the inputs of a back end: arrays with one value for each view, in the order of a `Batch`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.reader.mixture import EMPTY_JPEG
from pipeline.sampling.color import blur_kernel, color_map, is_colored
from pipeline.sampling.plan import BatchPlan, needed_frames
from pipeline.sampling.views import GLOBAL_VIEWS, SOLARIZE_OFF, Boxes, ColorJitterParams, ViewSettings, view_sizes

Feed = dict[str, Any]
"""One batch of inputs: a list of (size,) uint8 arrays, or an array with one row per view.

encoded    the frame, for the first of its views     matrix     (3, 3) and
decoded    whether there is an encoded frame         weights    (3,), see `pipeline.sampling.color`
frame      the view that has this view's frame       colored    whether they change anything
needed     whether the view can reach the loss       kernel     (1, BLUR_TAPS) weights of the blur
start      top and left of the crop                  blurred    whether they change anything
shape      its height and width                      solarized  whether the view is
size       height and width of the view              mirror     whether the view is
"""


def box_feed(boxes: Boxes) -> Feed:
    """Inputs for the crop boxes (n,) of n views."""
    return {
        "start": np.stack([boxes.top, boxes.left], axis=-1).astype(np.int32),
        "shape": np.stack([boxes.height, boxes.width], axis=-1).astype(np.int32),
    }


def color_feed(photometry: ColorJitterParams) -> Feed:
    """Inputs for the color parameters (n,) of n views."""
    colors = color_map(photometry)
    return {
        "matrix": colors.matrix.astype(np.float32),
        "weights": colors.weights.astype(np.float32),
        "colored": is_colored(photometry),
        "kernel": blur_kernel(photometry.sigma)[:, None].astype(np.float32),
        "blurred": photometry.sigma > 0,
        "solarized": photometry.solarize < SOLARIZE_OFF,
    }


def frame_feed(frames: Sequence[Sequence[np.ndarray]], needed: NDArray[np.bool_], views: Sequence[int]) -> Feed:
    """Inputs for F encoded frames of b clips, given as F lists of b arrays.

    `views` (F,) is the number of views of each frame, `needed` (b, F) whether it is decoded. A frame is fed with its
    first view, and the others refer to it.
    """
    clips = len(needed)
    first = np.cumsum([0, *views[:-1]])
    encoded, decoded = [EMPTY_JPEG] * (clips * sum(views)), np.zeros(clips * sum(views), bool)
    for number, start in enumerate((first * clips).tolist()):
        encoded[start : start + clips] = frames[number]
        decoded[start : start + clips] = needed[:, number]
    frame = (np.repeat(first * clips, views)[:, None] + np.arange(clips)).astype(np.int32)
    return {"encoded": encoded, "decoded": decoded, "frame": frame.ravel()}


def plan_feed(plan: BatchPlan, settings: ViewSettings, frames: Sequence[Sequence[np.ndarray]]) -> Feed:
    """All inputs for a plan and its encoded `frames`, 1 + A lists of b arrays.

    Views are in the order of a `Batch`: the first of all clips, then the second, and so on.
    """
    auxiliary = len(frames) - 1
    sizes = view_sizes(settings, auxiliary)
    current = len(sizes) - GLOBAL_VIEWS * auxiliary

    def by_view(planned: NDArray[Any]) -> NDArray[Any]:
        """(V b,) of (b, V)."""
        return planned.T.ravel()

    needed = np.ones_like(plan.flip)
    needed[:, current:] = np.tile(plan.auxiliary_needed, auxiliary)
    feed = frame_feed(frames, needed_frames(plan), [current] + [GLOBAL_VIEWS] * auxiliary)
    feed |= box_feed(Boxes(*map(by_view, plan.boxes)))
    feed |= color_feed(ColorJitterParams(*map(by_view, vars(plan.photometry).values())))
    return feed | {
        "needed": by_view(needed),
        "size": np.repeat(np.array(sizes, np.float32), len(plan.rows))[:, None].repeat(2, axis=1),
        "mirror": by_view(plan.flip).astype(np.int32),
    }
