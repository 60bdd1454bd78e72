"""How far apart, in seconds, the frames of a triplet will lie: computed from the lengths of the clips, not drawn."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.sampling.sandwich import SandwichSettings, frame_ranges

FAR_S = 5.0
"""Seconds beyond which two frames often show different scenes. The paper's offsets reach 2.5 s in its clips of 10 s."""


class Distances(NamedTuple):
    """Seconds from the current frame to past and future frames, over all draws from all clips."""

    least_s: float
    median_s: float
    most_s: float
    clips: int
    far: int
    """Number of clips where they may exceed `FAR_S`."""
    too_short: int
    """Number of clips in which all frames of a triplet are the same one; they have no distance."""


def _offset_weights(low: int, high: int, room: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Offsets (m,) and their probabilities (m,), where each current frame (n,) has `room` frames on that side."""
    last, frames = np.unique(np.minimum(high, room), return_counts=True)
    offsets = np.arange(low, last[-1] + 1)
    weights = (offsets <= last[:, None]) * (frames / (last - low + 1))[:, None]
    return offsets, weights.sum(axis=0) / frames.sum()


def triplet_distances(settings: SandwichSettings, clips: Mapping[int, int], fps: float) -> Distances | None:
    """Distances in a dataset with `clips` (number by frame count) at `fps`; None without auxiliary frames or clips."""
    if not settings.auxiliary or not clips:
        return None
    frames = np.array(sorted(clips))
    ranges = frame_ranges(settings, frames, frames / fps)
    seconds, weights = [np.zeros(0)], [np.zeros(0)]
    far = too_short = 0
    for index, count in enumerate(frames.tolist()):
        if ranges.fallback[index]:
            too_short += clips[count]
            continue
        current = np.arange(ranges.current[0][index], ranges.current[1][index] + 1)
        for direction, (low, high) in zip(settings.auxiliary, ranges.offsets, strict=True):
            room = current if direction == "past" else count - 1 - current
            offsets, probabilities = _offset_weights(int(low[index]), int(high[index]), room)
            seconds.append(offsets / fps)
            weights.append(probabilities * clips[count])
        far += clips[count] * bool(max(at[-1] for at in seconds[-len(settings.auxiliary) :]) > FAR_S)
    all_s, order = np.concatenate(seconds), np.argsort(np.concatenate(seconds), kind="stable")
    total = sum(clips.values())
    if not len(all_s):
        return Distances(0.0, 0.0, 0.0, total, far, too_short)
    below = np.cumsum(np.concatenate(weights)[order])
    median = all_s[order][np.searchsorted(below, below[-1] / 2 * (1 - 1e-9))]
    return Distances(float(all_s.min()), float(median), float(all_s.max()), total, far, too_short)


def distance_notes(
    distances: Distances, settings: SandwichSettings, layout: Literal["frames", "triplets"]
) -> list[str]:
    """What the user should know about a dataset of `layout`, a sentence a line."""
    option = "data.sandwich.unit" if layout == "frames" else "triplets.unit"
    least, median, most, clips, far, too_short = distances
    notes = []
    if too_short < clips:
        notes.append(
            f"past and future frames lie {least:.1f} to {most:.1f} s from the current one, {median:.1f} s in the "
            f"median ({option} = {settings.unit})"
        )
    if far and settings.unit == "fraction":
        remedy = "train with" if layout == "frames" else "write new shards with"
        notes.append(
            f"warning: in {far} of {clips} clips they may lie more than {FAR_S:g} s away, often in another scene: "
            f"{remedy} --{option} seconds, or cut the inputs in a new OUT with --clips.length 10"
        )
    if too_short:
        notes.append(
            f"warning: {too_short} of {clips} clips are too short for these offsets: all frames of their triplets are "
            "the same one"
        )
    return notes
