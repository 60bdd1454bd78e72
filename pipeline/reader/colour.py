"""Colour jitter and blur of views as small matrices, which DALI then applies to the pixels.

Brightness, contrast, saturation and grey are those of torchvision (and so of the released code), in this order. Hue is
turned about the grey axis of RGB, which is linear; torchvision turns in HSV, which keeps the largest channel where this
keeps the mean, and would take DALI some thirty passes over a view. Pixels are clipped once, at the end, and not rounded
in between.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.reader.views import Floats, Photometry

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in a grey value (ITU-R BT.601, as Pillow)."""
BLUR_TAPS = 9
_MEAN = np.full((3, 3), 1 / 3)
_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


class ColourMap(NamedTuple):
    """The new colour of a pixel x (3,) of an image whose mean colour is m (3,): `matrix @ x + weights @ m`."""

    matrix: Floats
    """(..., 3, 3)"""
    weights: Floats
    """(..., 3); the same shift for R, G and B."""


def _matrices(factor: NDArray[Any]) -> NDArray[Any]:
    return factor[..., None, None]


def colour_map(photometry: Photometry) -> ColourMap:
    """The colour map of views (...,)."""
    angle = 2 * np.pi * photometry.hue
    cosine = _matrices(np.cos(angle))
    hue = cosine * np.eye(3) + (1 - cosine) * _MEAN + _matrices(np.sin(angle)) * _TURN
    saturation = _matrices(photometry.saturation)
    matrix: Floats = saturation * hue + (1 - saturation) * LUMA  # a turn about the grey axis leaves greys as they are
    grey = (LUMA[:, None] * matrix).sum(axis=-2, keepdims=True)
    matrix = np.where(_matrices(photometry.grey), grey, matrix)
    matrix = matrix * _matrices(photometry.contrast * photometry.brightness)
    weights: Floats = ((1 - photometry.contrast) * photometry.brightness)[..., None] * LUMA
    return ColourMap(matrix, weights)


def is_coloured(photometry: Photometry) -> NDArray[np.bool_]:
    """(...,) bool: whether the colour map changes anything."""
    factors = np.stack([photometry.brightness, photometry.contrast, photometry.saturation])
    changed: NDArray[np.bool_] = photometry.grey | (photometry.hue != 0) | (factors != 1).any(axis=0)
    return changed


def blur_kernel(sigma: Floats) -> Floats:
    """(..., BLUR_TAPS) weights of a Gaussian of `sigma` pixels, summing to 1; all in the middle where sigma is 0."""
    distance = np.arange(BLUR_TAPS) - BLUR_TAPS // 2
    weights = np.exp(-0.5 * (distance / np.maximum(sigma, 1e-3)[..., None]) ** 2)
    kernel: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return kernel
