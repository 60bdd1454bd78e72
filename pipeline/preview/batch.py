"""The first batch as the model sees it: crops and masks, beside the frames that they are cut from."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError
from torch import Tensor

from pipeline.dataset import Manifest
from pipeline.files import atomic_path
from pipeline.preview.style import INK, PAPER, ROLE_COLOURS, SOFT
from pipeline.reader.batch import Batch
from pipeline.reader.loader import Loader, ReaderSettings
from pipeline.reader.order import OrderSettings
from pipeline.reader.plan import BatchPlan, plan_batch
from pipeline.reader.sources import is_remote
from pipeline.reader.views import GLOBAL_VIEWS, IMAGENET_MEAN, IMAGENET_STD, Boxes
from pipeline.settings import UserError, load_yaml
from pipeline.temporary import full_disk_is_temporary, temporary_folder

_FRAME, _VIEW, _GAP, _MARGIN = (300, 226), 184, 10, 32
_CAPTION, _HEADER = 22, 96
_EMPTY = "#eef0f2"
_GLOBAL_COLOURS = ("#d98a00", "#c2410c")
_LOCAL_COLOUR = "#7a5fb0"
_ROW = _FRAME[1] + 2 * _CAPTION + _GAP


def view_pixels(view: Tensor) -> np.ndarray:
    """(S, S, 3) uint8 of a normalised view (3, S, S)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels: np.ndarray = (255 * (view.cpu() * std + mean)).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels


def mask_pixels(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A view (S, S, 3) whose masked patches, of a square grid (P,), are washed out."""
    side = round(len(mask) ** 0.5)
    place = np.arange(len(pixels)) * side // len(pixels)
    masked = mask.reshape(side, side)[place][:, place, None]
    return np.where(masked, 225 + pixels // 9, pixels).astype(np.uint8)


def _tile(pixels: np.ndarray, size: int) -> Image.Image:
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)


def _framed(data: np.ndarray, boxes: list[tuple[tuple[int, ...], str, int]], room: tuple[int, int]) -> Image.Image:
    """A frame shrunk into `room`, with (top, left, height, width) boxes of a colour and line width."""
    frame = Image.open(io.BytesIO(data.tobytes())).convert("RGB")
    scale = min(room[0] / frame.width, room[1] / frame.height)
    small = frame.resize((round(frame.width * scale), round(frame.height * scale)), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(small)
    for (top, left, height, width), colour, line in boxes:
        corners = (left, top, left + width, top + height)
        pen.rectangle([round(scale * corner) - (i > 1) for i, corner in enumerate(corners)], outline=colour, width=line)
    return small


def _box(boxes: Boxes, clip: int, column: int) -> tuple[int, ...]:
    return tuple(int(edge[clip, column]) for edge in boxes)


class _Row:
    """Pictures from left to right, each below its caption."""

    def __init__(self, width: int) -> None:
        self.picture = Image.new("RGB", (width, _ROW), PAPER)
        self.pen = ImageDraw.Draw(self.picture)
        self.left = _MARGIN

    def add(self, caption: str, picture: Image.Image | None, width: int, top: int = 0, line: str = SOFT) -> None:
        """Put a picture, or an empty place, into a column of `width`."""
        self.pen.text((self.left, top + 3), caption, fill=line, font=ImageFont.load_default(13))
        if picture is None:
            self.pen.rectangle((self.left, top + _CAPTION, self.left + width, top + _CAPTION + width), fill=_EMPTY)
        else:
            self.picture.paste(picture, (self.left, top + _CAPTION))
        self.left += width + _GAP


def _clip_row(settings: ReaderSettings, loader: Loader, plan: BatchPlan, batch: Batch, clip: int, width: int) -> _Row:
    row, clips, locals_ = _Row(width), len(plan.rows), settings.views.local_crops
    dataset, inner, key = loader.sources.origin(int(plan.rows[clip]))
    boxes = [(_box(plan.boxes, clip, GLOBAL_VIEWS + crop), _LOCAL_COLOUR, 1) for crop in range(locals_)]
    boxes += [(_box(plan.boxes, clip, crop), colour, 3) for crop, colour in enumerate(_GLOBAL_COLOURS)]
    frame = dataset.frame(inner, int(plan.frames[clip, 0]))
    caption = f"{key[:26]}, frame {int(plan.frames[clip, 0])}"
    row.add(caption, _framed(frame, boxes, _FRAME), _FRAME[0], line=INK)
    for crop, colour in enumerate(_GLOBAL_COLOURS):
        mask = batch.masks[crop * clips + clip].numpy()
        pixels = mask_pixels(view_pixels(batch.global_crops[crop * clips + clip]), mask)
        row.add(f"global {crop + 1}, {int(mask.sum())} masked", _tile(pixels, _VIEW), _VIEW, line=colour)
    small, start = (_FRAME[1] - _CAPTION) // 2, row.left
    for crop in range(locals_):
        half = -(-locals_ // 2)
        if crop == half:
            row.left = start
        tile = _tile(view_pixels(batch.local_crops[crop * clips + clip]), small)
        row.add(f"local {crop + 1}", tile, small, (crop >= half) * (small + _CAPTION), _LOCAL_COLOUR)
    row.left = start + -(-locals_ // 2) * (small + _GAP)
    roles = ("neighbour",) if loader.table.neighbours is not None else settings.sandwich.auxiliary
    for number, (role, views) in enumerate(zip(roles, batch.auxiliary, strict=True)):
        colour = ROLE_COLOURS.get(role, INK)
        dataset, inner, _ = loader.sources.origin(int(plan.source_rows[clip, 1 + number]))
        frame = dataset.frame(inner, int(plan.frames[clip, 1 + number]))
        room = (_VIEW, _FRAME[1])
        first = GLOBAL_VIEWS * (1 + number) + locals_
        framed = [(_box(plan.boxes, clip, first + view), colour, 3) for view in range(GLOBAL_VIEWS)]
        whole = _framed(frame, framed, room)
        row.add(f"{role}, frame {int(plan.frames[clip, 1 + number])}", whole, _VIEW, line=colour)
        for view in range(GLOBAL_VIEWS):
            needed = bool(plan.auxiliary_needed[clip, view])
            shown = _tile(view_pixels(views[view * clips + clip]), _VIEW) if needed else None
            caption = f"for global {view + 1}" if needed else f"global {view + 1} has no mask"
            row.add(caption, shown, _VIEW, line=colour)
    return row


def draw_batch(settings: ReaderSettings, clips: int) -> Image.Image:
    """The first global batch of `clips` samples under `settings`, a row for each.

    Raises:
        UserError: the data cannot be read.
    """
    with Loader(settings, clips, 0, 1) as loader:
        batch = next(loader)
        plan = plan_batch(settings, loader.table, 0, clips, slice(0, clips))
        columns = -(-settings.views.local_crops // 2) * ((_FRAME[1] - _CAPTION) // 2 + _GAP)
        views = GLOBAL_VIEWS + (1 + GLOBAL_VIEWS) * len(batch.auxiliary)
        width = 2 * _MARGIN + _FRAME[0] + _GAP + views * (_VIEW + _GAP) + columns
        sheet = Image.new("RGB", (width, _HEADER + clips * _ROW + _MARGIN), PAPER)
        pen = ImageDraw.Draw(sheet)
        pen.text((_MARGIN, 24), "A batch as the model sees it", fill=INK, font=ImageFont.load_default(28))
        text = "boxes: global crops (thick) and local crops (thin); pale patches are masked for the student; "
        text += "empty places are views that cannot reach the loss"
        pen.text((_MARGIN, 62), text, fill=SOFT, font=ImageFont.load_default(15))
        for clip in range(clips):
            sheet.paste(_clip_row(settings, loader, plan, batch, clip, width).picture, (0, _HEADER + clip * _ROW))
    return sheet


def batch_settings(shards: str, manifest: Manifest, seed: int, training: Path | None) -> ReaderSettings:
    """Settings under which a training draws from a dataset: those of its preset or run, else the defaults.

    Without neighbours still images are shown without auxiliary frames.

    Raises:
        UserError: `training` is no preset or `config.json`.
    """
    values: Any = load_yaml(training).get("data", {}) if training else {}
    if not isinstance(values, dict):
        raise UserError(f"--training {training} is no preset or config.json of a training: data holds no settings")
    if manifest.media == "images" and not values.get("neighbours"):
        values["sandwich"] = {"auxiliary": ()}
    try:
        return ReaderSettings.model_validate({**values, "shards": shards, "seed": seed, "prefetch": 1})
    except ValidationError as error:
        problems = [f"data.{'.'.join(map(str, p['loc']))} = {p['input']!r}: {p['msg']}" for p in error.errors()]
        raise UserError(f"--training {training}: {'; '.join(problems)}") from error


def write_batch(settings: ReaderSettings, clips: int, out: Path) -> None:
    """Write the picture of the first batch of `clips` samples as PNG.

    Raises:
        UserError: the data cannot be read.
    """
    with temporary_folder() as folder, full_disk_is_temporary():
        if is_remote(settings.shards):  # shards are fetched one by one, and not kept
            one_by_one = {"order": OrderSettings(kind="window", window=1), "cache": folder}
            settings = settings.model_copy(update=one_by_one)
        picture = draw_batch(settings, clips)
    with atomic_path(out) as temporary:
        picture.save(temporary, "PNG")
