"""Which frames of a clip a dataset returns: pure functions of the clip's length and of uniform random numbers."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.sampling.plan import TRIPLET_FRAMES
from pipeline.sampling.sandwich import SandwichSettings, draw_frames, draws_needed
from pipeline.settings import UserError

_ROUNDING = 1e-6
"""Share of a frame by which a time may miss the start of a frame and still mean that frame."""


class FrameSampler(Protocol):
    """What `ClipDataset` asks a sampler; anything with these members is one."""

    @property
    def draws(self) -> int:
        """Uniform numbers needed for each clip."""

    def __call__(self, num_frames: int, duration_s: float, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Frame numbers (n,) of a clip; `uniform` is (draws,) in [0, 1)."""


def frames_at(times_s: NDArray[np.float64], num_frames: int, duration_s: float) -> NDArray[np.int64]:
    """Numbers (n,) of the frames on display at `times_s` (n,), which count from the first frame.

    Raises:
        IndexError: a time is outside the clip.
    """
    numbers = np.floor(times_s * num_frames / duration_s + _ROUNDING).astype(np.int64)
    for time in np.asarray(times_s)[(numbers < 0) | (numbers >= num_frames)][:1]:
        raise IndexError(f"there is no frame at {time:g} s: the clip's frames cover 0 to {duration_s:g} s")
    return numbers


class Sandwich(SandwichSettings):
    """A current frame and auxiliary frames before or after it, in this order, as T-CoRe draws them.

    Takes the options below `data.sandwich`. In layout `triplets` the stored frames are returned.
    """

    @property
    def draws(self) -> int:
        """One for each frame."""
        return draws_needed(self)

    @property
    def stored(self) -> NDArray[np.int64]:
        """Where a sample of layout `triplets` has these frames."""
        return np.array([TRIPLET_FRAMES[name] for name in ("current", *self.auxiliary)])

    def __call__(self, num_frames: int, duration_s: float, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """The current frame, then the auxiliary ones: (1 + auxiliary,)."""
        [numbers] = draw_frames(self, np.array([num_frames]), uniform[None])
        return np.asarray(numbers)


@dataclass(frozen=True)
class Uniform:
    """`count` frames spread over the whole clip: the middle, or a random frame, of each of `count` equal parts.

    A clip with fewer frames repeats some.
    """

    count: int
    random: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Uniform(count={self.count}): count must be at least 1")

    @property
    def draws(self) -> int:
        """One for each frame if they are random."""
        return self.count if self.random else 0

    def __call__(self, num_frames: int, duration_s: float, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Frame numbers (count,), ascending."""
        within = uniform if self.random else 0.5
        return ((np.arange(self.count) + within) * num_frames / self.count).astype(np.int64)


@dataclass(frozen=True)
class Every:
    """Frames `seconds` apart: all of them from the start of the clip, or `count` from a random frame on.

    Where the clip ends before the last of `count` frames, they begin at its start, and its last frame is repeated.
    """

    seconds: float
    count: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"Every(seconds={self.seconds}): seconds must be a positive number")
        if self.count is not None and self.count < 1:
            raise ValueError(f"Every(count={self.count}): count must be at least 1")

    @property
    def draws(self) -> int:
        """One for the start, if there is a choice."""
        return 0 if self.count is None else 1

    def __call__(self, num_frames: int, duration_s: float, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Frame numbers (count,), or as many as fit, ascending."""
        step = self.seconds * num_frames / duration_s
        if self.count is None:
            return np.floor(np.arange(0, num_frames - _ROUNDING, step) + _ROUNDING).astype(np.int64)
        offsets = np.floor(np.arange(self.count) * step + _ROUNDING).astype(np.int64)
        starts = max(1, num_frames - int(offsets[-1]))
        return np.asarray(np.minimum(int(uniform[0] * starts) + offsets, num_frames - 1))


def draw(
    sampler: FrameSampler, layout: str, num_frames: int, duration_s: float, uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Frame numbers (n,) of a sample in a layout; `uniform` is (draws,)."""
    if layout == "triplets" and isinstance(sampler, Sandwich):
        return sampler.stored
    return sampler(num_frames, duration_s, uniform)


def check_sampler(sampler: FrameSampler | None, media: str, layout: str, folder: str) -> None:
    """Check that samples of a medium and layout have the frames that a sampler draws.

    Raises:
        UserError: they do not.
    """
    if isinstance(sampler, Sandwich) and sampler.auxiliary and media == "images":
        raise UserError(
            f"{folder} holds still images, which have no past and future: use Uniform(1) in place of Sandwich"
        )
    if isinstance(sampler, Sandwich) and layout == "triplets" and len(set(sampler.auxiliary)) < len(sampler.auxiliary):
        raise UserError(
            f"{folder} holds triplets of one past and one future frame: "
            f"auxiliary of Sandwich cannot be {','.join(sampler.auxiliary)}"
        )
    if isinstance(sampler, Every) and (media == "images" or layout == "triplets"):
        raise UserError(
            f"{folder} holds {media} in layout {layout}, whose frames have no times: use Uniform, not Every"
        )
