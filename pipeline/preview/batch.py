"""The first batch as the model sees it: crops and masks, next to the frames that they are cut from."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.files import write_bytes
from pipeline.reader.batch import PlannedBatch
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.report.contact_sheet import Row, Tile, blank, contact_sheet, shrink
from pipeline.report.palette import LIGHT, ROLES
from pipeline.sampling.order import OrderSettings
from pipeline.sampling.views import GLOBAL_VIEWS, IMAGENET_MEAN, IMAGENET_STD, Boxes
from pipeline.storage import is_remote
from pipeline.temporary import full_disk_is_temporary, temporary_folder

_FRAME, _VIEW, _GAP = (300, 200), 200, 4
_GLOBALS, _LOCAL = ("orange", "red"), "purple"
"""Colors of the global and the local crops."""


def view_pixels(view: Tensor) -> np.ndarray:
    """Pixels (S, S, 3) uint8 of a normalized view (3, S, S)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels: np.ndarray = (255 * (view.cpu() * std + mean)).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels


def mask_pixels(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels (S, S, 3) of a view with its masked patches faded; `mask` (P,) is a square grid of patches."""
    side = round(len(mask) ** 0.5)
    patch = np.arange(len(pixels)) * side // len(pixels)
    masked = mask.reshape(side, side)[patch][:, patch, None]
    return np.where(masked, 225 + pixels // 9, pixels).astype(np.uint8)


def _square(view: np.ndarray, size: int = _VIEW) -> Image.Image:
    return Image.fromarray(view).resize((size, size), Image.Resampling.LANCZOS)


def _mosaic(views: list[np.ndarray]) -> Image.Image:
    """Views in two rows, each half as high as a single view."""
    across, size = -(-len(views) // 2), (_VIEW - _GAP) // 2
    mosaic = Image.new("RGB", (across * (size + _GAP) - _GAP, _VIEW), LIGHT["paper"])
    for number, view in enumerate(views):
        mosaic.paste(_square(view, size), (number % across * (size + _GAP), number // across * (size + _GAP)))
    return mosaic


def _framed(data: np.ndarray, boxes: Boxes, clip: int, colors: dict[int, tuple[str, int]]) -> Image.Image:
    """A shrunk JPEG with the boxes of some views of a clip; `colors` has their colors and line widths."""
    frame = Image.open(io.BytesIO(data.tobytes())).convert("RGB")
    small = shrink(frame, _FRAME)
    pen, scale = ImageDraw.Draw(small), small.width / frame.width
    for view, (color, line) in colors.items():
        top, left, height, width = (scale * int(edge[clip, view]) for edge in boxes)
        corners = (round(left), round(top), round(left + width) - 1, round(top + height) - 1)
        pen.rectangle(corners, outline=LIGHT[color], width=line)
    return small


def _clip_row(settings: ReaderSettings, loader: Loader, batch: PlannedBatch, clip: int) -> Row:
    """The current frame, its views, and each auxiliary frame with its views."""
    plan, local_crops = batch.plan, settings.views.local_crops
    clips = len(plan.rows)

    def frame(column: int, colors: dict[int, tuple[str, int]]) -> Image.Image:
        dataset, row, _ = loader.mixture.origin(int(plan.source_rows[clip, column]))
        return _framed(dataset.frame(row, int(plan.frames[clip, column])), plan.boxes, clip, colors)

    colors = {GLOBAL_VIEWS + crop: (_LOCAL, 1) for crop in range(local_crops)}
    colors |= {crop: (color, 3) for crop, color in enumerate(_GLOBALS)}
    tiles = [Tile(frame(0, colors), f"frame {int(plan.frames[clip, 0])}")]
    for crop, color in enumerate(_GLOBALS):
        mask = batch.masks[crop * clips + clip].numpy()
        pixels = mask_pixels(view_pixels(batch.global_crops[crop * clips + clip]), mask)
        tiles.append(Tile(_square(pixels), f"global {crop + 1}, {int(mask.sum())} masked", color))
    if local_crops:
        views = [view_pixels(batch.local_crops[crop * clips + clip]) for crop in range(local_crops)]
        tiles.append(Tile(_mosaic(views), f"local 1 to {local_crops}"))
    roles = ("neighbour",) if loader.mixture.table.neighbours is not None else settings.sandwich.auxiliary
    for number, (role, auxiliary) in enumerate(zip(roles, batch.auxiliary, strict=True), start=1):
        color = ROLES.get(role, "gray")
        first = GLOBAL_VIEWS * number + local_crops
        colors = {first + view: (color, 3) for view in range(GLOBAL_VIEWS)}
        tiles.append(Tile(frame(number, colors), f"{role}, frame {int(plan.frames[clip, number])}"))
        for view in range(GLOBAL_VIEWS):
            if plan.auxiliary_needed[clip, view]:
                shown = _square(view_pixels(auxiliary[view * clips + clip]))
                tiles.append(Tile(shown, f"{role} for global {view + 1}", color))
            else:
                tiles.append(Tile(blank((_VIEW, _VIEW)), f"global {view + 1} has no mask"))
    return Row(loader.mixture.origin(int(plan.rows[clip])).key, tiles)


def draw_samples(settings: ReaderSettings, loader: Loader, batch: PlannedBatch, clips: int) -> bytes:
    """PNG of the first `clips` samples of a batch of the loader, a row for each."""
    note = (
        "Boxes: global crops (thick) and local crops (thin). Pale patches are masked for the student. Empty tiles are "
        "views that cannot reach the loss"
    )
    rows = [_clip_row(settings, loader, batch, clip) for clip in range(min(clips, len(batch.plan.rows)))]
    return contact_sheet(rows, "A batch as the model sees it", note)


def draw_batch(settings: ReaderSettings, clips: int) -> bytes:
    """PNG of the first global batch of `clips` samples, a row for each.

    Raises:
        UserError: the data cannot be read.
    """
    with Loader(settings, clips, range(1)) as loader:
        return draw_samples(settings, loader, next(loader), clips)


def write_batch(settings: ReaderSettings, clips: int, out: Path) -> None:
    """Write the PNG of the first batch of `clips` samples.

    Raises:
        UserError: the data cannot be read.
    """
    with temporary_folder() as folder, full_disk_is_temporary():
        if is_remote(settings.shards):  # shards are fetched one by one, and not kept
            one_by_one = {"order": OrderSettings(kind="window", window=1), "cache": folder}
            settings = settings.model_copy(update=one_by_one)
        png = draw_batch(settings, clips)
    write_bytes(out, png)
