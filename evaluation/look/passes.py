"""Several passes over the frames of a clip and their features, in memory that does not grow with the clip."""

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from evaluation.pictures import Picture

KEPT_BYTES = 256 << 20
"""Features that are kept for the next pass; those of longer clips are computed again."""


def picture(jpeg: bytes) -> Picture:
    """Pixels (H, W, 3) of a JPEG."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))


def pictures(jpegs: Sequence[bytes]) -> Iterator[Picture]:
    """The pixels (H, W, 3) of each frame, decoded when it is needed."""
    return (picture(jpegs[number]) for number in range(len(jpegs)))


class Passes:
    """Features of the frames of a clip, any number of times in order."""

    def __init__(self, compute: Callable[[], Iterator[Tensor]], most_bytes: int = KEPT_BYTES) -> None:
        """`compute` gives the features of the frames; what it gives is kept up to `most_bytes`."""
        self._compute, self._most = compute, most_bytes
        self._kept: list[Tensor] | None = None

    def __call__(self) -> Iterator[Tensor]:
        """The features of each frame."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Tensor] = []
        size = 0
        for features in self._compute():
            size += features.nbytes
            if size <= self._most:
                kept.append(features)
            else:
                kept.clear()
            yield features
        if size <= self._most:
            self._kept = kept
