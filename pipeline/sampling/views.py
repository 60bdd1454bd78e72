"""Multi-crop augmentation as numbers: crop boxes and color parameters of all views, drawn for many clips at once."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.settings import Settings, Share

CROP_ASPECT = (3 / 4, 4 / 3)
"""Range of width over height of random crops (log-uniform) and of the auxiliary frames' center crop."""
CROP_TRIES = 10
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of the color channels, for pixels from 0 to 1."""
GLOBAL_VIEWS = 2
LOCAL_KIND = 2
"""Kind of a local crop; global crops 1 and 2, and the auxiliary views for them, have kinds 0 and 1."""
SOLARIZE_OFF = 256
"""Solarize threshold that leaves every uint8 pixel as it is."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_Sigma = Annotated[float, Field(gt=0, le=100)]


class ViewSettings(Settings):
    """Views of a sample (paper, section 4.1; constants of the released code)."""

    global_size: int = Field(224, ge=16, le=4096)
    """Side of the two global crops and of the auxiliary views, in pixels."""
    local_size: int = Field(96, ge=16, le=4096)
    """Side of the local crops, in pixels."""
    local_crops: int = Field(8, ge=0, le=1000)
    """Local crops of the current frame."""
    global_area: tuple[Share, Share] = (0.32, 1.0)
    """Range of a global crop's share of the frame's area."""
    local_area: tuple[Share, Share] = (0.05, 0.32)
    """Range of a local crop's share of the frame's area."""
    local_flip: float = Field(0.5, ge=0, le=1)
    """Probability that a local crop is mirrored; global crops never are."""
    jitter: float = Field(0.8, ge=0, le=1)
    """Probability of color jitter."""
    brightness: float = Field(0.4, ge=0, le=1)
    """Largest jitter of the brightness: its factor is between 1 - brightness and 1 + brightness."""
    contrast: float = Field(0.4, ge=0, le=1)
    """Largest jitter of the contrast, likewise."""
    saturation: float = Field(0.2, ge=0, le=1)
    """Largest jitter of the saturation, likewise."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """Largest shift of the hue in either direction, in turns of the color wheel."""
    gray: float = Field(0.2, ge=0, le=1)
    """Probability that a view becomes grayscale."""
    blur: tuple[Share, Share, Share] = (1.0, 0.1, 0.5)
    """Blur probability of global crop 1, global crop 2 and local crops; the released code has 0, 0.9, 0.5."""
    blur_sigma: tuple[_Sigma, _Sigma] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels; the kernel has 9 taps."""
    solarize: tuple[Share, Share, Share] = (0.0, 0.2, 0.0)
    """Solarize probability of global crop 1, global crop 2 and local crops."""
    auxiliary_crop: Literal["frame", "current"] = "frame"
    """What the two auxiliary views show: `frame`, the whole frame (its center if it is very wide or high); `current`,
    the boxes of the two global crops, for a teacher that is unaligned in time only."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> "ViewSettings":
        for name in ("global_area", "local_area", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} = {low}, {high} must be two positive numbers, the second at least as large")
        return self


def view_sizes(settings: ViewSettings, auxiliary: int) -> list[int]:
    """Side in pixels of each view of a clip: global crops, local crops, two views of each auxiliary frame."""
    large = [settings.global_size] * GLOBAL_VIEWS
    return large + [settings.local_size] * settings.local_crops + large * auxiliary


def view_kinds(settings: ViewSettings, auxiliary: int) -> Integers:
    """Kind of each view of a clip, in the same order: 0 and 1 global crops and their auxiliary views, 2 local crops."""
    large = [0, 1]
    return np.array(large + [LOCAL_KIND] * settings.local_crops + large * auxiliary)


class Boxes(NamedTuple):
    """Crop boxes in pixels of the frame; all arrays have the same shape."""

    top: Integers
    left: Integers
    height: Integers
    width: Integers


@dataclass(frozen=True)
class ColorJitterParams:
    """Color parameters of views; all arrays have the same shape, with 1, 0 or off where nothing changes."""

    brightness: Floats
    contrast: Floats
    saturation: Floats
    """Factors."""
    hue: Floats
    """Shift in turns, -0.5 to 0.5."""
    gray: NDArray[np.bool_]
    """Whether the view then becomes grayscale."""
    sigma: Floats
    """Standard deviation of the blur in pixels; 0 for none."""
    solarize: Integers
    """Pixels at or above this value are inverted; `SOLARIZE_OFF` for none."""


CROP_DRAWS = 2 * CROP_TRIES + 2
PHOTOMETRY_DRAWS = 9


def random_boxes(height: Integers, width: Integers, area: Floats, uniform: Floats) -> Boxes:
    """Random crop boxes: the first of ten tries that fits into the frame, else its center box.

    `height` and `width` (...,) are the frames' sides and `area` (..., 2) the range of the share of the frame's area,
    all broadcast to the shape of the boxes; `uniform` is (..., CROP_DRAWS).
    """
    tries = uniform[..., : 2 * CROP_TRIES].reshape(*uniform.shape[:-1], CROP_TRIES, 2)
    low, high = (math.log(aspect) for aspect in CROP_ASPECT)
    share = area[..., :1] + tries[..., 0] * (area[..., 1:] - area[..., :1])
    root_area = np.sqrt((height * width)[..., None] * share)
    root_aspect = np.exp(0.5 * (low + tries[..., 1] * (high - low)))
    widths = np.rint(root_area * root_aspect).astype(np.int64)
    heights = np.rint(root_area / root_aspect).astype(np.int64)
    fits = (widths > 0) & (widths <= width[..., None]) & (heights > 0) & (heights <= height[..., None])
    first = fits.argmax(axis=-1)[..., None]
    any_fits, box_height, box_width = (
        np.take_along_axis(values, first, axis=-1)[..., 0] for values in (fits, heights, widths)
    )
    top = (uniform[..., -2] * (height - box_height + 1)).astype(np.int64)
    left = (uniform[..., -1] * (width - box_width + 1)).astype(np.int64)
    center = center_boxes(height, width)
    drawn = Boxes(top, left, box_height, box_width)
    return Boxes(*(np.where(any_fits, box, edge) for box, edge in zip(drawn, center, strict=True)))


def current_boxes(settings: ViewSettings, height: Integers, width: Integers, uniform: Floats) -> Boxes:
    """Boxes (n, C) of the C crops of n current frames with sides (n, 1); `uniform` is (n, C, CROP_DRAWS)."""
    crops = uniform.shape[1]
    large = np.arange(crops)[:, None] < GLOBAL_VIEWS
    area = np.where(large, settings.global_area, settings.local_area)
    return random_boxes(height, width, area, uniform)


def center_boxes(height: Integers, width: Integers) -> Boxes:
    """The whole frame where its aspect is within `CROP_ASPECT`, else the largest center crop whose aspect is."""
    low, high = CROP_ASPECT
    box_width = np.where(width > high * height, np.round(height * high).astype(np.int64), width)
    box_height = np.where(width < low * height, np.round(width / low).astype(np.int64), height)
    return Boxes((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def auxiliary_boxes(settings: ViewSettings, current: Boxes, height: Integers, width: Integers) -> Boxes:
    """Boxes (n, 2 A) of both views of A auxiliary frames with sides (n, A), for `current` boxes (n, C)."""
    if settings.auxiliary_crop == "current":
        return Boxes(*(np.tile(edge[:, :GLOBAL_VIEWS], height.shape[1]) for edge in current))
    return Boxes(*(np.repeat(edge, GLOBAL_VIEWS, axis=1) for edge in center_boxes(height, width)))


def view_boxes(settings: ViewSettings, height: Integers, width: Integers, uniform: Floats) -> Boxes:
    """Boxes (n, C + 2 A) of the C crops of n current frames and of both views of their A auxiliary frames.

    `height` and `width` (n, 1 + A) are the sides of the current and the auxiliary frames; `uniform` is
    (n, C, CROP_DRAWS).
    """
    current = current_boxes(settings, height[:, :1], width[:, :1], uniform)
    auxiliary = auxiliary_boxes(settings, current, height[:, 1:], width[:, 1:])
    return Boxes(*(np.concatenate(edges, axis=1) for edges in zip(current, auxiliary, strict=True)))


def draw_photometry(settings: ViewSettings, kinds: Integers, uniform: Floats) -> ColorJitterParams:
    """Color parameters (n, V) of V views of n samples.

    `kinds` (V,) selects the probabilities: 0 global crop 1, 1 global crop 2, 2 local crop.
    `uniform` is (n, V, PHOTOMETRY_DRAWS).
    """
    jitter = uniform[..., 0] < settings.jitter

    def factor(column: int, strength: float) -> Floats:
        return np.where(jitter, 1 + strength * (2 * uniform[..., column] - 1), 1.0)

    blurred = uniform[..., 6] < np.array(settings.blur)[kinds]
    low, high = settings.blur_sigma
    solarized = uniform[..., 8] < np.array(settings.solarize)[kinds]
    return ColorJitterParams(
        brightness=factor(1, settings.brightness),
        contrast=factor(2, settings.contrast),
        saturation=factor(3, settings.saturation),
        hue=np.where(jitter, settings.hue * (2 * uniform[..., 4] - 1), 0.0),
        gray=uniform[..., 5] < settings.gray,
        sigma=np.where(blurred, low + uniform[..., 7] * (high - low), 0.0),
        solarize=np.where(solarized, 128, SOLARIZE_OFF),
    )
