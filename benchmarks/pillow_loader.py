"""What the reader is compared with: a PyTorch DataLoader whose workers execute the same plan with Pillow.

Like the reader, it decodes and crops only what is needed, resizes an auxiliary frame once for both of its views, and
skips views for crops without a mask.
"""

import io
import time

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.reader.mixture import DatasetMixture
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.plan import BatchPlan, plan_batch
from pipeline.sampling.views import (
    GLOBAL_VIEWS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SOLARIZE_OFF,
    Boxes,
    ColorJitterParams,
    view_sizes,
)

_SCALE = (1 / (255 * np.array(IMAGENET_STD))).astype(np.float32)
_SHIFT = (np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)).astype(np.float32)
_SOLARIZED = [min(level, 255 - level) if level >= 128 else level for level in range(256)] * 3


def _crop(image: Image.Image, boxes: Boxes, clip: int, crop: int, size: int) -> Image.Image:
    top, left, height, width = (int(edge[clip, crop]) for edge in boxes)
    return image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)


def _color(view: Image.Image, photometry: ColorJitterParams, clip: int, number: int) -> Image.Image:
    drawn = {name: float(values[clip, number]) for name, values in vars(photometry).items()}
    for name, enhance in (
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ):
        if drawn[name] != 1:
            view = enhance(view).enhance(drawn[name])
    if drawn["hue"]:
        hue, saturation, value = view.convert("HSV").split()
        shift = round(255 * drawn["hue"])
        shifted = hue.point([(level + shift) % 256 for level in range(256)])
        view = Image.merge("HSV", (shifted, saturation, value)).convert("RGB")
    if drawn["gray"]:
        view = view.convert("L").convert("RGB")
    if drawn["sigma"]:
        view = view.filter(ImageFilter.GaussianBlur(drawn["sigma"]))
    if drawn["solarize"] < SOLARIZE_OFF:
        view = view.point(_SOLARIZED)
    return view


def _tensor(view: Image.Image, mirror: bool = False) -> np.ndarray:
    pixels: np.ndarray = np.asarray(view, np.float32) * _SCALE - _SHIFT
    return (pixels[:, ::-1] if mirror else pixels).transpose(2, 0, 1)


def _decode(data: np.ndarray) -> Image.Image:
    return Image.open(io.BytesIO(data.tobytes())).convert("RGB")


def execute(plan: BatchPlan, frames: list[list[np.ndarray]], settings: ReaderSettings) -> list[Tensor]:
    """The views of a plan in the order of a `Batch`: global crops, local crops, views of each auxiliary frame."""
    clips, views = len(plan.rows), settings.views
    auxiliary = len(frames) - 1
    sizes, crops = view_sizes(views, auxiliary), GLOBAL_VIEWS + views.local_crops
    output = [np.zeros((clips, 3, size, size), np.float32) for size in sizes]
    for clip in range(clips):
        current = _decode(frames[0][clip])
        for crop in range(crops):
            view = _color(_crop(current, plan.boxes, clip, crop, sizes[crop]), plan.photometry, clip, crop)
            output[crop][clip] = _tensor(view, bool(plan.flip[clip, crop]))
        needed = np.flatnonzero(plan.auxiliary_needed[clip]).tolist()
        for number in range(auxiliary if needed else 0):
            image, resized = _decode(frames[1 + number][clip]), {}
            for view_number in needed:
                index = crops + GLOBAL_VIEWS * number + view_number
                box = tuple(int(edge[clip, index]) for edge in plan.boxes)
                if box not in resized:
                    resized[box] = _crop(image, plan.boxes, clip, index, sizes[index])
                output[index][clip] = _tensor(_color(resized[box], plan.photometry, clip, index))
    groups = [output[:GLOBAL_VIEWS], output[GLOBAL_VIEWS:crops]]
    groups += [output[crops + GLOBAL_VIEWS * n :][:GLOBAL_VIEWS] for n in range(auxiliary)]
    return [torch.from_numpy(np.concatenate(group)) for group in groups if group]


class PlannedBatches(Dataset[tuple[list[Tensor], Tensor, float]]):
    """Maps a step to its views, its masks and the CPU seconds that the worker has used so far."""

    def __init__(self, settings: ReaderSettings, batch_size: int, steps: int) -> None:
        self._settings, self._batch_size, self._steps = settings, batch_size, steps
        self._mixture: DatasetMixture | None = None

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[list[Tensor], Tensor, float]:
        if self._mixture is None:
            self._mixture = DatasetMixture(self._settings)
        part = slice(0, self._batch_size)
        plan = plan_batch(self._settings, self._mixture.table, step, self._batch_size, part)
        views = execute(plan, self._mixture.planned_frames(plan), self._settings)
        return views, torch.from_numpy(plan.masks), time.process_time()


def pillow_loader(settings: ReaderSettings, batch_size: int, steps: int, workers: int) -> DataLoader[object]:
    """The batches of `steps` steps, made by `workers` processes."""
    return DataLoader(
        PlannedBatches(settings, batch_size, steps), batch_size=None, num_workers=workers, prefetch_factor=2
    )
