"""Label propagation: from a clip's first frame to its later frames, by the similarity of frozen patch features.

Each cell of a new frame gets a weighted mean of the labels of its most similar cells in the context: the clip's first
frame and the `n_context` preceding frames. The defaults are the protocol of the T-CoRe paper (section 4): the first
frame counts at any distance, the others within a radius, and the clip is prefixed with copies of its first frame.

Nearly all the time is spent on the product of the frame with its context, about half of which is outside the radius.
Hence the context is stored column by column: the columns within reach of a strip of the frame are then one contiguous
matrix, and only these are multiplied.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.settings import COUNT_LIMIT, FACTOR_LIMIT, Settings

STRIP = 5
"""Columns of the new frame that are compared at once: the fastest of 1 to 11 on a 30 x 55 grid (two CPU cores)."""


class PropagationSettings(Settings):
    """Constants of label propagation; the defaults are those of DAVIS-2017."""

    n_context: int = Field(default=20, ge=1, le=COUNT_LIMIT)
    """Previous frames in the context, besides the first one."""
    top_k: int = Field(default=7, ge=1, le=COUNT_LIMIT)
    """Most similar context cells whose labels are mixed."""
    radius: float = Field(default=20.0, gt=0, le=FACTOR_LIMIT)
    """Cells of previous frames count only within this distance, in cells."""
    neighborhood: Literal["open-circle", "circle", "square"] = "open-circle"
    """Within: a Euclidean distance less than or (circle) at most the radius, or rows and columns at most the radius."""
    limit_first_frame: bool = False
    """Cells of the first frame, too, count only within the radius."""
    pad_context: bool = True
    """Copies of the first frame precede the clip; without them, the context of its first frames is shorter."""
    temperature: float = Field(default=0.7, gt=0, le=FACTOR_LIMIT)
    """Temperature of the softmax over the top-k similarities."""


class _Strip(NamedTuple):
    """Columns [start, stop) of a frame, the columns [left, right) within reach, and the cells of these out of reach."""

    start: int
    stop: int
    left: int
    right: int
    outside: Tensor
    """bool (gh, stop - start, right - left, 1, gh): row and column of the frame, column and row of the context."""


def _outside(rows: Tensor, columns: Tensor, settings: PropagationSettings) -> Tensor:
    """Whether cells at these distances in rows and columns are out of reach."""
    if settings.neighborhood == "square":
        return torch.maximum(rows.abs(), columns.abs()) > settings.radius
    square = rows**2 + columns**2
    return square > settings.radius**2 if settings.neighborhood == "circle" else square >= settings.radius**2


def _strips(height: int, width: int, settings: PropagationSettings, device: torch.device) -> list[_Strip]:
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    row_distance = rows[:, None, None, None, None] - rows
    radius = min(settings.radius, width)
    reach = math.ceil(radius) - 1 if settings.neighborhood == "open-circle" else math.floor(radius)
    strips = []
    for start in range(0, width, STRIP):
        stop = min(start + STRIP, width)
        left, right = max(0, start - reach), min(width, stop + reach)
        column_distance = (columns[start:stop, None] - columns[left:right])[:, :, None, None]
        strips.append(_Strip(start, stop, left, right, _outside(row_distance, column_distance, settings)))
    return strips


def _top_k(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest values along the last dimension and their positions; missing ones are -inf, that is weight 0."""
    best = similarity.topk(min(k, similarity.shape[-1]))
    missing = (0, k - best.values.shape[-1])
    return F.pad(best.values, missing, value=-torch.inf), F.pad(best.indices, missing)


class Context:
    """The frames that the next frame is compared with, on the device of their features.

    Cells are numbered slot * gh * gw + row * gw + column. Slot 0 is the first frame; frame t >= 1 takes slot
    1 + (t - 1) % n_context, and until then the slot holds a copy of the first frame, or nothing without `pad_context`.
    """

    def __init__(self, first_hwd: Tensor, settings: PropagationSettings) -> None:
        """Start with the first frame's unit features (gh, gw, D)."""
        height, width, _ = first_hwd.shape
        self._settings = settings
        self._first_hwd = first_hwd
        self._first_slot = 0 if settings.limit_first_frame else 1  # of the window
        slots = settings.n_context + 1 - self._first_slot
        self._window_wshd = first_hwd.transpose(0, 1)[:, None].repeat(1, slots, 1, 1)
        self._filled = slots if settings.pad_context else 1 - self._first_slot
        self._pushed = 0
        self._strips = _strips(height, width, settings, first_hwd.device)
        most = max(strip.outside.numel() for strip in self._strips)
        self._affinity = first_hwd.new_empty(most * slots)

    def push(self, frame_hwd: Tensor) -> int:
        """Replace the oldest unit features by a frame's; returns the frame's slot."""
        slot = 1 + self._pushed % self._settings.n_context
        self._pushed += 1
        self._window_wshd[:, slot - self._first_slot] = frame_hwd.transpose(0, 1)
        self._filled = max(self._filled, slot + 1 - self._first_slot)
        return slot

    def match(self, frame_hwd: Tensor) -> tuple[Tensor, Tensor]:
        """Most similar context cells of each cell of a frame with unit features (gh, gw, D).

        Returns:
            Weights (gh, gw, k) that sum to 1, and the indices (gh, gw, k) of their context cells.
        """
        height, width, _ = frame_hwd.shape
        window = [self._match_window(frame_hwd, strip) for strip in self._strips]
        similarity, cells = (torch.cat(parts, 1) for parts in zip(*window, strict=True))
        if not self._settings.limit_first_frame:
            to_first = frame_hwd.flatten(0, 1) @ self._first_hwd.flatten(0, 1).T
            first, first_cells = _top_k(to_first.view(height, width, -1), self._settings.top_k)
            similarity, choice = _top_k(torch.cat([first, similarity], -1), self._settings.top_k)
            cells = torch.cat([first_cells, cells], -1).gather(-1, choice)
        return (similarity / self._settings.temperature).softmax(-1), cells

    def _match_window(self, frame_hwd: Tensor, strip: _Strip) -> tuple[Tensor, Tensor]:
        """Highest similarities (gh, strip, k) of a strip to the previous frames, and the indices of their cells."""
        height, width, _ = frame_hwd.shape
        slots = self._window_wshd.shape[1]
        queries = frame_hwd[:, strip.start : strip.stop].flatten(0, 1)
        context = self._window_wshd[strip.left : strip.right].flatten(0, 2)
        affinity = self._affinity[: len(queries) * len(context)].view(len(queries), len(context))
        torch.mm(queries, context.T, out=affinity)
        blocks = affinity.view(height, strip.stop - strip.start, strip.right - strip.left, slots, height)
        blocks.masked_fill_(strip.outside, -torch.inf)
        blocks[:, :, :, self._filled :] = -torch.inf
        similarity, position = _top_k(blocks.flatten(2), self._settings.top_k)
        row = position % height
        slot = position // height % slots + self._first_slot
        column = position // (height * slots) + strip.left
        return similarity, (slot * height + row) * width + column


@torch.no_grad()
def propagate(features: Iterable[Tensor], first_labels: Tensor, settings: PropagationSettings) -> Iterator[Tensor]:
    """Yield the soft labels (gh, gw, L) of each frame as its features arrive; the first frame keeps its own.

    Args:
        features: per frame (gh, gw, D), of any length and floating type; all on one device.
        first_labels: soft labels (gh, gw, L) of the first frame, e.g. a distribution over L classes in each cell.
        settings: constants of the protocol.

    Only the context is in memory, however long the clip. Everything is computed in float32.
    """
    context: Context | None = None
    for frame in features:
        unit = F.normalize(frame.float(), dim=-1)
        if context is None:
            context = Context(unit, settings)
            labels = first_labels.to(unit)
            stored = labels.repeat(settings.n_context + 1, 1, 1, 1)  # (slot, gh, gw, L)
        else:
            weights, cells = context.match(unit)
            labels = (weights[..., None] * stored.flatten(0, 2)[cells]).sum(-2)
            stored[context.push(unit)] = labels
        yield labels
