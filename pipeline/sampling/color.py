"""Color jitter and blur of views as small matrices, which a back end applies to the pixels.

Brightness, contrast, saturation and gray are those of torchvision (and so of the released code), in this order. Hue is
a rotation about the gray axis of RGB, which is linear and keeps the mean of the channels; torchvision rotates in HSV,
which keeps their maximum and would take DALI some thirty passes over a view. Pixels are clipped once, at the end, and
not rounded in between.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.sampling.views import ColorJitterParams, Floats

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in a gray value (ITU-R BT.601, as Pillow)."""
BLUR_TAPS = 9
_MEAN = np.full((3, 3), 1 / 3)
_ROTATION = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


class ColorMap(NamedTuple):
    """A pixel x (3,) of an image with mean color m (3,) becomes `matrix @ x + weights @ m`."""

    matrix: Floats
    """(..., 3, 3)"""
    weights: Floats
    """(..., 3); the shift is the same for R, G and B."""


def _matrices(factor: NDArray[Any]) -> NDArray[Any]:
    return factor[..., None, None]


def color_map(photometry: ColorJitterParams) -> ColorMap:
    """The color map of views (...,)."""
    angle = 2 * np.pi * photometry.hue
    cosine = _matrices(np.cos(angle))
    hue = cosine * np.eye(3) + (1 - cosine) * _MEAN + _matrices(np.sin(angle)) * _ROTATION
    saturation = _matrices(photometry.saturation)
    matrix: Floats = saturation * hue + (1 - saturation) * LUMA  # a rotation about the gray axis keeps grays
    gray = (LUMA[:, None] * matrix).sum(axis=-2, keepdims=True)
    matrix = np.where(_matrices(photometry.gray), gray, matrix)
    matrix = matrix * _matrices(photometry.contrast * photometry.brightness)
    weights: Floats = ((1 - photometry.contrast) * photometry.brightness)[..., None] * LUMA
    return ColorMap(matrix, weights)


def is_colored(photometry: ColorJitterParams) -> NDArray[np.bool_]:
    """(...,) bool: whether the color map changes anything."""
    factors = np.stack([photometry.brightness, photometry.contrast, photometry.saturation])
    changed: NDArray[np.bool_] = photometry.gray | (photometry.hue != 0) | (factors != 1).any(axis=0)
    return changed


def blur_kernel(sigma: Floats) -> Floats:
    """(..., BLUR_TAPS) weights of a Gaussian of `sigma` pixels, with sum 1; a 1 in the center where sigma is 0."""
    distance = np.arange(BLUR_TAPS) - BLUR_TAPS // 2
    weights = np.exp(-0.5 * (distance / np.maximum(sigma, 1e-3)[..., None]) ** 2)
    kernel: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return kernel
