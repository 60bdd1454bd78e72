"""The samples that are shown, with their frames and the triplets drawn from them."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.dataset import Manifest, repair_hint
from pipeline.preview.survey import Chosen
from pipeline.record import dali_index_file
from pipeline.report.contact_sheet import spread
from pipeline.sampling.philox import Stream, uniforms
from pipeline.sampling.plan import PlanSettings
from pipeline.sampling.sandwich import draw_frames, draws_needed
from pipeline.settings import UserError
from pipeline.storage import Storage

MOST_PICTURED = 24
"""Most evenly spaced frames shown of a clip."""
_ORDER = ("past", "current", "future")


class Draw(NamedTuple):
    """A triplet, or what else training draws from a clip, and its name."""

    name: str
    frames: tuple[int, ...]
    """Frame numbers, in order of time."""
    roles: tuple[str, ...] = ("past", "current", "future")
    """What each frame is."""


@dataclass(frozen=True)
class Strip:
    """A clip or image with the frames that are shown."""

    key: str
    class_name: str
    source: str
    size: tuple[int, int]
    num_frames: int
    duration_s: float
    times_s: dict[int, float]
    """Seconds from the start of the clip, by frame number; empty for an image."""
    pictures: dict[int, Image.Image]
    """By frame number, in order of time."""
    even: list[int]
    """Evenly spaced frame numbers; empty for a dataset of triplets."""
    draws: list[Draw]


def reader_draws(row: int, num_frames: int, duration_s: float, settings: PlanSettings, count: int) -> list[Draw]:
    """The frames that the reader draws from index row `row` in its first `count` epochs."""
    sandwich, roles = settings.sandwich, ("current", *settings.sandwich.auxiliary)
    uniform = uniforms(settings.seed, Stream.SAMPLE, np.arange(count), row, draws_needed(sandwich))
    drawn = draw_frames(sandwich, np.full(count, num_frames), uniform, np.full(count, duration_s))
    in_time = [sorted(zip(frames.tolist(), map(_ORDER.index, roles), strict=True)) for frames in drawn]
    return [
        Draw(f"epoch {epoch}", tuple(frame for frame, _ in frames), tuple(_ORDER[role] for _, role in frames))
        for epoch, frames in enumerate(in_time)
    ]


def _picture(storage: Storage, row: dict[str, Any], frame: int) -> Image.Image:
    data = storage.read(row["shard"], (row["frame_offset"][frame], row["frame_size"][frame]))
    return Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB")


def _facts(storage: Storage, row: dict[str, Any]) -> dict[str, Any]:
    """The content of a sample's `json`, found with the shard's index for DALI."""
    name = f"{row['key']}.json"
    for line in storage.read(dali_index_file(row["shard"])).decode().splitlines()[1:]:
        *_, offset, size, member = line.split(" ")
        if member == name:
            facts: dict[str, Any] = json.loads(storage.read(row["shard"], (int(offset), int(size))))
            return facts
    raise KeyError(name)


def _strip(storage: Storage, manifest: Manifest, chosen: Chosen, draws: int, settings: PlanSettings) -> Strip:
    row = chosen.rows[0]
    key, num_frames = row["key"], row["num_frames"]
    even: list[int] = []
    drawn: list[Draw] = []
    times_s: dict[int, float] = {}
    if manifest.layout == "triplets":
        rows = chosen.rows[:draws]
        facts = [_facts(storage, row) for row in rows]
        key, num_frames = facts[0]["clip"], facts[0]["num_frames"]
        drawn = [Draw(f"triplet {number}", (*fact["frames"],)) for number, fact in enumerate(facts)]
        times_s = {frame: time for fact in facts for frame, time in zip(fact["frames"], fact["times_s"], strict=True)}
        stored = {f: (row, i) for row, fact in zip(rows, facts, strict=True) for i, f in enumerate(fact["frames"])}
    else:
        if manifest.media == "clips":
            drawn = reader_draws(chosen.row, num_frames, row["duration_s"], settings, draws)
            times_s = dict(enumerate(_facts(storage, row)["times_s"]))
        even = spread(num_frames, MOST_PICTURED)
        stored = {frame: (row, frame) for frame in {*even, *(frame for draw in drawn for frame in draw.frames)}}
    return Strip(
        key=key,
        class_name=row["class_name"] or "without class",
        source=row["source"],
        size=(row["width"], row["height"]),
        num_frames=num_frames,
        duration_s=row["duration_s"],
        times_s=times_s,
        pictures={frame: _picture(storage, *stored[frame]) for frame in sorted(stored)},
        even=even,
        draws=drawn,
    )


def read_strips(
    storage: Storage, manifest: Manifest, chosen: Iterable[Chosen], draws: int, settings: PlanSettings
) -> Iterator[Strip]:
    """Read the chosen samples one at a time, with `draws` triplets each, as a training with `settings` draws them.

    Raises:
        UserError: a shard is damaged.
    """
    for sample in chosen:
        try:
            strip = _strip(storage, manifest, sample, draws, settings)
        except Exception as error:  # Pillow's decoders raise errors of any kind for damaged data
            raise UserError(
                f"cannot read {sample.rows[0]['key']} in {storage}/{sample.rows[0]['shard']} ({type(error).__name__}). "
                f"{repair_hint(storage)}"
            ) from error
        yield strip
