"""Heat maps over pictures: of attention and of similarity."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WARM, COLD = (255, 176, 59), (18, 24, 48)
"""Colors of the highest and of the lowest value."""
OPACITY = 0.55


def heat(picture: NDArray[np.uint8], values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) under a map (gh, gw): light where it is high, dark where it is low."""
    scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    light = Image.fromarray((255 * scaled).astype(np.uint8)).resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
    strength = np.asarray(light)[..., None] / 255
    color = np.array(WARM) * strength + np.array(COLD) * (1 - strength)
    return ((1 - OPACITY) * picture + OPACITY * color).astype(np.uint8)
