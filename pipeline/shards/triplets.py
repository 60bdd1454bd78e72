"""Layout `triplets`: past, current and future frames drawn in advance, for projects without sampling code."""

from dataclasses import replace

import numpy as np

from pipeline.record import TRIPLET_NAMES, Sample, shuffle_rank
from pipeline.sampling.philox import Stream, uniforms
from pipeline.sampling.sandwich import SandwichSettings, draw_frames, draws_needed

_SANDWICH = SandwichSettings()


def draw_triplets(key: str, frames: int, seed: int, count: int) -> list[tuple[int, int, int]]:
    """Frame numbers (past, current, future) of the `count` triplets of a clip with `frames` frames (METHOD, section 1).

    A pure function of the clip's key and the seed.
    """
    item = int.from_bytes(shuffle_rank(key, seed)[:4], "big")
    uniform = uniforms(seed, Stream.TRIPLETS, np.arange(count), item, draws_needed(_SANDWICH))
    drawn = draw_frames(_SANDWICH, np.full(count, frames), uniform)
    return [(int(past), int(current), int(future)) for current, past, future in drawn]


def triplet_samples(clip: Sample, seed: int, count: int) -> list[Sample]:
    """The triplets of a clip, with keys `KEY-00`, `KEY-01`, ..., and their frame numbers and times in the fields."""
    samples = []
    for number, drawn in enumerate(draw_triplets(clip.key, len(clip.frames), seed, count)):
        times = [clip.fields["times_s"][frame] for frame in drawn]
        fields = {**clip.fields, "clip": clip.key, "num_frames": len(clip.frames), "frames": drawn, "times_s": times}
        frames = [(name, clip.frames[frame][1]) for name, frame in zip(TRIPLET_NAMES, drawn, strict=True)]
        samples.append(replace(clip, key=f"{clip.key}-{number:02d}", frames=frames, fields=fields, class_member=False))
    return samples
