"""Principal components of patch features over all frames of a clip, shown as colors.

Mean and covariance are sums over frames, so that memory does not grow with the clip: a pass for the sums, and one for
the colors. With `background`, a pass in between finds the components of the foreground alone.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHANNELS = 3
RANGE = 2.0
"""Standard deviations from the mean at which a color channel is 0 or 255."""


class Basis(NamedTuple):
    """The first components of features, in order of falling variance."""

    mean_d: Tensor
    components_dk: Tensor
    """Unit vectors whose entry of largest magnitude is positive; zeros if there are fewer than `CHANNELS`."""
    deviation_k: Tensor
    """Standard deviation of the features along each component."""

    def project(self, features: Tensor) -> Tensor:
        """Coordinates (..., K) of features (..., D), float32."""
        return (features.float() - self.mean_d) @ self.components_dk


class Moments:
    """Count, mean and covariance of patch features, gathered frame by frame in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._shift: Tensor | float = 0.0
        self._sum: Tensor | float = 0.0
        self._outer: Tensor | float = 0.0

    def add(self, features_nd: Tensor) -> None:
        """Count features (N, D); N may be 0."""
        if not len(features_nd):
            return
        rows = features_nd.double()
        if not self._count:
            self._shift = rows.mean(0)  # near the mean, or differences of large sums would lose digits
        rows = rows - self._shift
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._outer = self._outer + rows.T @ rows

    def basis(self) -> Basis | None:
        """The first `CHANNELS` components; None without features."""
        if not self._count:
            return None
        assert isinstance(self._sum, Tensor)
        mean = self._sum / self._count
        values, vectors = torch.linalg.eigh(self._outer / self._count - torch.outer(mean, mean))
        count = min(CHANNELS, len(values))
        components, variance = vectors.flip(1)[:, :count], values.flip(0)[:count].clamp_min(0)
        largest = components.gather(0, components.abs().argmax(0, keepdim=True))
        components = torch.nn.functional.pad(components * largest.sign(), (0, CHANNELS - count))
        deviation = torch.nn.functional.pad(variance.sqrt(), (0, CHANNELS - count))
        return Basis((mean + self._shift).float(), components.float(), deviation.float())


class Coloring(NamedTuple):
    """Colors of patches: those of the components of all of them, or of the foreground on black."""

    basis: Basis
    foreground: Basis | None = None
    side: float = 0.0
    """1 or -1: the sign of the foreground along the first component; 0 to show all patches."""

    def is_foreground(self, features: Tensor) -> Tensor:
        """Whether patches (..., D) are foreground."""
        return self.basis.project(features)[..., 0] * self.side > 0

    def colors(self, features: Tensor) -> NDArray[np.uint8]:
        """RGB (gh, gw, 3) of the features (gh, gw, D) of a frame.

        Red, green and blue are the coordinates along the first three components, from `RANGE` standard deviations below
        the mean to `RANGE` above; gray where they do not vary.
        """
        basis = self.foreground or self.basis
        share = 0.5 + basis.project(features) / (2 * RANGE * basis.deviation_k.clamp_min(1e-12))
        if self.side:
            share = share * self.is_foreground(features)[..., None]
        rgb: NDArray[np.uint8] = (255 * share.clamp(0, 1)).round().byte().cpu().numpy()
        return rgb


def fit_colors(frames: Callable[[], Iterator[Tensor]], background: bool = False) -> Coloring:
    """The colors of a clip; `frames` gives the features (gh, gw, D) of its frames, again at each call.

    With `background`, patches on one side of the mean along the first component are background: on the side on which
    patches at the border of the frames are on average. The others have components of their own.
    """
    moments, border = Moments(), Moments()
    for features in frames():
        moments.add(features.flatten(0, 1))
        if background:
            border.add(torch.cat([features[[0, -1]].flatten(0, 1), features[:, [0, -1]].flatten(0, 1)]))
    basis, border_basis = moments.basis(), border.basis()
    assert basis is not None, "a clip has at least one frame"
    if border_basis is None:
        return Coloring(basis)
    plain = Coloring(basis, side=-1.0 if basis.project(border_basis.mean_d)[0] > 0 else 1.0)
    shown = Moments()
    for features in frames():
        shown.add(features[plain.is_foreground(features)])
    return plain._replace(foreground=shown.basis())
