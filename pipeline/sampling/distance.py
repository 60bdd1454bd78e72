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


def _probabilities(low: int, high: int, least_room: int, most_room: int) -> NDArray[np.float64]:
    """Probabilities (m,) of the offsets low, low + 1, ...: uniform up to `high` and the room on that side of a frame.

    The room, the number of frames there, is itself uniform from `least_room` to `most_room`.
    """
    last = np.arange(min(least_room, high), min(most_room, high) + 1)
    rooms = np.ones(len(last))
    rooms[-1] = most_room - max(least_room, int(last[-1])) + 1
    reached = np.arange(low, last[-1] + 1) <= last[:, None]
    weights: NDArray[np.float64] = (reached * (rooms / (last - low + 1))[:, None]).sum(axis=0) / rooms.sum()
    return weights


def triplet_distances(settings: SandwichSettings, clips: Mapping[int, int], fps: float) -> Distances | None:
    """Distances in a dataset with `clips` (number by frame count) at `fps`; None without auxiliary frames or clips."""
    if not settings.auxiliary or not clips:
        return None
    frames = np.array(sorted(clips))
    ranges = frame_ranges(settings, frames, frames / fps)
    weights = np.zeros(frames[-1])
    far = too_short = 0
    for index, count in enumerate(frames.tolist()):
        if ranges.fallback[index]:
            too_short += clips[count]
            continue
        first, last = (int(bound[index]) for bound in ranges.current)
        farthest = 0
        for direction, (low, high) in zip(settings.auxiliary, ranges.offsets, strict=True):
            room = (first, last) if direction == "past" else (count - 1 - last, count - 1 - first)
            probabilities = _probabilities(int(low[index]), int(high[index]), *room)
            end = int(low[index]) + len(probabilities)
            weights[low[index] : end] += probabilities * clips[count]
            farthest = max(farthest, end - 1)
        far += clips[count] * (farthest / fps > FAR_S)
    offsets = np.flatnonzero(weights)
    if not len(offsets):
        return Distances(0.0, 0.0, 0.0, too_short, far, too_short)
    below = np.cumsum(weights)
    median = np.searchsorted(below, below[-1] / 2 * (1 - 1e-9))
    least_s, median_s, most_s = (float(offset / fps) for offset in (offsets[0], median, offsets[-1]))
    return Distances(least_s, median_s, most_s, sum(clips.values()), far, too_short)


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
