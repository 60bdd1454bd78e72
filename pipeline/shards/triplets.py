"""Layout `triplets`: past, current and future frames drawn in advance, for projects without sampling code."""

from dataclasses import replace

import numpy as np

from pipeline.record import TRIPLET_NAMES, Sample, shuffle_rank
from pipeline.sampling.philox import Stream, uniforms
from pipeline.sampling.sandwich import SandwichSettings, draw_frames, draws_needed
from pipeline.spec import TripletSettings


def draw_triplets(
    key: str, frames: int, duration_s: float, seed: int, settings: TripletSettings
) -> list[tuple[int, int, int]]:
    """Frame numbers (past, current, future) of the triplets of a clip with `frames` frames (METHOD, section 1).

    A pure function of the clip's key and length, the seed and the settings.
    """
    sandwich, count = SandwichSettings(unit=settings.unit), settings.per_clip
    item = int.from_bytes(shuffle_rank(key, seed)[:4], "big")
    uniform = uniforms(seed, Stream.TRIPLETS, np.arange(count), item, draws_needed(sandwich))
    drawn = draw_frames(sandwich, np.full(count, frames), uniform, np.full(count, duration_s))
    return [(int(past), int(current), int(future)) for current, past, future in drawn]


def triplet_samples(clip: Sample, seed: int, settings: TripletSettings) -> list[Sample]:
    """The triplets of a clip, with keys `KEY-00`, `KEY-01`, ..., and their frame numbers and times in the fields."""
    samples = []
    duration_s = len(clip.frames) / clip.fields["fps"]
    for number, drawn in enumerate(draw_triplets(clip.key, len(clip.frames), duration_s, seed, settings)):
        times = [clip.fields["times_s"][frame] for frame in drawn]
        fields = {**clip.fields, "clip": clip.key, "num_frames": len(clip.frames), "frames": drawn, "times_s": times}
        frames = [(name, clip.frames[frame][1]) for name, frame in zip(TRIPLET_NAMES, drawn, strict=True)]
        samples.append(replace(clip, key=f"{clip.key}-{number:02d}", frames=frames, fields=fields, class_member=False))
    return samples
