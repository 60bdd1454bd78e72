"""The first batch as the model sees it: crops and masks, beside the frames that they are cut from."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import ValidationError
from torch import Tensor

from pipeline.dataset import Manifest
from pipeline.files import write_bytes
from pipeline.presets import load_preset
from pipeline.reader.batch import Batch
from pipeline.reader.loader import Loader, ReaderSettings
from pipeline.reader.mixture import is_remote
from pipeline.report.contact_sheet import Row, Tile, blank, contact_sheet, shrink
from pipeline.report.palette import LIGHT, ROLES
from pipeline.sampling.order import OrderSettings
from pipeline.sampling.plan import BatchPlan, plan_batch
from pipeline.sampling.views import GLOBAL_VIEWS, IMAGENET_MEAN, IMAGENET_STD, Boxes
from pipeline.settings import UserError
from pipeline.temporary import full_disk_is_temporary, temporary_folder

_FRAME, _VIEW, _GAP = (300, 200), 200, 4
_GLOBALS, _LOCAL = ("orange", "red"), "purple"
"""Colors of the global and the local crops."""


def view_pixels(view: Tensor) -> np.ndarray:
    """(S, S, 3) uint8 of a normalized view (3, S, S)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels: np.ndarray = (255 * (view.cpu() * std + mean)).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels


def mask_pixels(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A view (S, S, 3) whose masked patches, of a square grid (P,), are washed out."""
    side = round(len(mask) ** 0.5)
    place = np.arange(len(pixels)) * side // len(pixels)
    masked = mask.reshape(side, side)[place][:, place, None]
    return np.where(masked, 225 + pixels // 9, pixels).astype(np.uint8)


def _square(view: np.ndarray, size: int = _VIEW) -> Image.Image:
    return Image.fromarray(view).resize((size, size), Image.Resampling.LANCZOS)


def _mosaic(views: list[np.ndarray]) -> Image.Image:
    """Small views in two rows."""
    across, size = -(-len(views) // 2), (_VIEW - _GAP) // 2
    mosaic = Image.new("RGB", (across * (size + _GAP) - _GAP, _VIEW), LIGHT["paper"])
    for number, view in enumerate(views):
        mosaic.paste(_square(view, size), (number % across * (size + _GAP), number // across * (size + _GAP)))
    return mosaic


def _framed(data: np.ndarray, boxes: Boxes, clip: int, colors: dict[int, tuple[str, int]]) -> Image.Image:
    """A JPEG shrunk, with the boxes of the columns that have a color and a line width."""
    frame = Image.open(io.BytesIO(data.tobytes())).convert("RGB")
    small = shrink(frame, _FRAME)
    pen, scale = ImageDraw.Draw(small), small.width / frame.width
    for column, (color, line) in colors.items():
        top, left, height, width = (scale * int(edge[clip, column]) for edge in boxes)
        corners = (round(left), round(top), round(left + width) - 1, round(top + height) - 1)
        pen.rectangle(corners, outline=LIGHT[color], width=line)
    return small


def _clip_row(settings: ReaderSettings, loader: Loader, plan: BatchPlan, batch: Batch, clip: int) -> Row:
    """The current frame, its views, and each auxiliary frame with its views."""
    clips, local_crops = len(plan.rows), settings.views.local_crops

    def frame(row: int, position: int, colors: dict[int, tuple[str, int]]) -> Image.Image:
        dataset, inner, _ = loader.mixture.origin(row)
        return _framed(dataset.frame(inner, int(plan.frames[clip, position])), plan.boxes, clip, colors)

    colors = {GLOBAL_VIEWS + crop: (_LOCAL, 1) for crop in range(local_crops)}
    colors |= {crop: (color, 3) for crop, color in enumerate(_GLOBALS)}
    row = int(plan.rows[clip])
    tiles = [Tile(frame(row, 0, colors), f"frame {int(plan.frames[clip, 0])}")]
    for crop, color in enumerate(_GLOBALS):
        mask = batch.masks[crop * clips + clip].numpy()
        pixels = mask_pixels(view_pixels(batch.global_crops[crop * clips + clip]), mask)
        tiles.append(Tile(_square(pixels), f"global {crop + 1}, {int(mask.sum())} masked", color))
    if local_crops:
        views = [view_pixels(batch.local_crops[crop * clips + clip]) for crop in range(local_crops)]
        tiles.append(Tile(_mosaic(views), f"local 1 to {local_crops}"))
    roles = ("neighbour",) if loader.table.neighbours is not None else settings.sandwich.auxiliary
    for number, (role, auxiliary) in enumerate(zip(roles, batch.auxiliary, strict=True), start=1):
        color = ROLES.get(role, "gray")
        first = GLOBAL_VIEWS * number + local_crops
        colors = {first + view: (color, 3) for view in range(GLOBAL_VIEWS)}
        picture = frame(int(plan.source_rows[clip, number]), number, colors)
        tiles.append(Tile(picture, f"{role}, frame {int(plan.frames[clip, number])}"))
        for view in range(GLOBAL_VIEWS):
            if plan.auxiliary_needed[clip, view]:
                shown = _square(view_pixels(auxiliary[view * clips + clip]))
                tiles.append(Tile(shown, f"{role} for global {view + 1}", color))
            else:
                tiles.append(Tile(blank((_VIEW, _VIEW)), f"global {view + 1} has no mask"))
    return Row(loader.mixture.origin(row).key, tiles)


def draw_batch(settings: ReaderSettings, clips: int) -> bytes:
    """PNG of the first global batch of `clips` samples under `settings`, a row for each.

    Raises:
        UserError: the data cannot be read.
    """
    note = (
        "Boxes: global crops (thick) and local crops (thin); pale patches are masked for the student; empty places are "
        "views that cannot reach the loss"
    )
    with Loader(settings, clips, 0, 1) as loader:
        batch = next(loader)
        plan = plan_batch(settings, loader.table, 0, clips, slice(0, clips))
        rows = [_clip_row(settings, loader, plan, batch, clip) for clip in range(clips)]
    return contact_sheet(rows, "A batch as the model sees it", note)


def batch_settings(shards: str, manifest: Manifest, seed: int, training: Path | None) -> ReaderSettings:
    """Settings under which a training draws from a dataset: those of its preset or run, else the defaults.

    Without neighbours still images are shown without auxiliary frames.

    Raises:
        UserError: `training` is no preset or `config.json`.
    """
    values: Any = load_preset(training).values.get("data", {}) if training else {}
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
    write_bytes(out, picture)
