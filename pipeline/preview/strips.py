"""The samples that are shown: their frames, and which of them some sandwich draws take."""

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
from pipeline.sampling.sandwich import SandwichSettings, draw_frames, draws_needed
from pipeline.settings import UserError
from pipeline.storage import Storage

ROLES = ("past", "current", "future")
MOST_PICTURED = 24
"""Longer clips are shown by so many frames, evenly spaced."""
_SANDWICH = SandwichSettings()


class Draw(NamedTuple):
    """Frame numbers of one triplet, and its name."""

    name: str
    frames: tuple[int, int, int]
    """Past, current, future."""


@dataclass(frozen=True)
class Strip:
    """One clip or image with the pictures that are shown of it."""

    key: str
    class_name: str
    source: str
    size: tuple[int, int]
    num_frames: int
    duration_s: float
    times_s: dict[int, float]
    """Time of each pictured frame; empty for an image."""
    pictures: dict[int, Image.Image]
    """By frame number, in order of time."""
    even: list[int]
    """Evenly spaced frame numbers over the clip; empty if the dataset holds triplets only."""
    draws: list[Draw]


def reader_draws(row: int, num_frames: int, seed: int, count: int) -> list[Draw]:
    """What the reader draws from index row `row` in its first `count` epochs with this seed and the paper's ranges."""
    uniform = uniforms(seed, Stream.SAMPLE, np.arange(count), row, draws_needed(_SANDWICH))
    drawn = draw_frames(_SANDWICH, np.full(count, num_frames), uniform)
    return [
        Draw(f"epoch {epoch}", (int(past), int(current), int(future)))
        for epoch, (current, past, future) in enumerate(drawn)
    ]


def _picture(storage: Storage, row: dict[str, Any], frame: int) -> Image.Image:
    data = storage.read(row["shard"], (row["frame_offset"][frame], row["frame_size"][frame]))
    return Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB")


def _facts(storage: Storage, row: dict[str, Any]) -> dict[str, Any]:
    """The content of a sample's `json`, which the index of the shard for DALI locates."""
    name = f"{row['key']}.json"
    for line in storage.read(dali_index_file(row["shard"])).decode().splitlines()[1:]:
        *_, offset, size, member = line.split(" ")
        if member == name:
            facts: dict[str, Any] = json.loads(storage.read(row["shard"], (int(offset), int(size))))
            return facts
    raise KeyError(name)


def _of_triplets(
    storage: Storage, chosen: Chosen, most: int
) -> tuple[dict[str, Any], dict[int, Image.Image], list[Draw]]:
    facts: dict[str, Any] = {}
    times: dict[int, float] = {}
    pictures: dict[int, Image.Image] = {}
    draws = []
    for number, row in enumerate(chosen.rows[:most]):
        facts = _facts(storage, row)
        past, current, future = facts["frames"]
        draws.append(Draw(f"triplet {number}", (past, current, future)))
        for place, frame in enumerate(facts["frames"]):
            pictures[frame] = _picture(storage, row, place)
            times[frame] = facts["times_s"][place]
    return {**facts, "times_s": times}, dict(sorted(pictures.items())), draws


def _strip(storage: Storage, manifest: Manifest, chosen: Chosen, draws: int, seed: int) -> Strip:
    row = chosen.rows[0]
    even: list[int] = []
    drawn: list[Draw] = []
    times: dict[int, float] = {}
    num_frames: int = row["num_frames"]
    if manifest.layout == "triplets":
        facts, pictures, drawn = _of_triplets(storage, chosen, draws)
        times, num_frames = facts["times_s"], facts["num_frames"]
    else:
        if manifest.media == "clips":
            drawn = reader_draws(chosen.row, num_frames, seed, draws)
            times = dict(enumerate(_facts(storage, row)["times_s"]))
        even = spread(num_frames, MOST_PICTURED)
        pictured = sorted({*even, *(frame for draw in drawn for frame in draw.frames)})
        pictures = {frame: _picture(storage, row, frame) for frame in pictured}
    return Strip(
        key=facts["clip"] if manifest.layout == "triplets" else row["key"],
        class_name=row["class_name"],
        source=row["source"],
        size=(row["width"], row["height"]),
        num_frames=num_frames,
        duration_s=row["duration_s"],
        times_s=times,
        pictures=pictures,
        even=even,
        draws=drawn,
    )


def read_strips(
    storage: Storage, manifest: Manifest, chosen: Iterable[Chosen], draws: int, seed: int
) -> Iterator[Strip]:
    """Read what is shown of each chosen sample, one after the other, with `draws` triplets each.

    Raises:
        UserError: a shard is damaged.
    """
    for one in chosen:
        try:
            strip = _strip(storage, manifest, one, draws, seed)
        except Exception as error:  # of a damaged picture, Pillow's decoders raise every kind
            raise UserError(
                f"cannot read {one.rows[0]['key']} in {storage}/{one.rows[0]['shard']} ({type(error).__name__}). "
                f"{repair_hint(storage)}"
            ) from error
        yield strip
