"""Layout `triplets`: past, current and future frames drawn in advance, for projects without sampling code."""

from dataclasses import replace

import numpy as np
from pydantic import Field

from pipeline.record import Sample
from pipeline.sampling.philox import Stream, uniforms
from pipeline.sampling.sandwich import SandwichSettings, draw_frames, draws_needed
from pipeline.settings import Settings
from pipeline.shards.plan import shuffle_rank

_SANDWICH = SandwichSettings()
MEMBERS = ("past.jpg", "current.jpg", "future.jpg")


class TripletSettings(Settings):
    """Settings of the layout `triplets`."""

    per_clip: int = Field(4, ge=1, le=100)
    """Triplets per clip, drawn with the ranges of the paper."""


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
        frames = [(name, clip.frames[frame][1]) for name, frame in zip(MEMBERS, drawn, strict=True)]
        samples.append(replace(clip, key=f"{clip.key}-{number:02d}", frames=frames, fields=fields, class_member=False))
    return samples
