"""The page on which a click on a patch shows how similar all other patches are to it, in every frame of a clip.

It holds pictures and features, so that it works offline. A feature is stored as int8, scaled by its own largest
magnitude: the cosine similarity does not depend on the scale.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.report.contact_sheet import spread
from pipeline.report.heat import COLD, OPACITY, WARM
from pipeline.report.page import jpeg_uri, render

MOST_BYTES = 20_000_000
MOST_FRAMES = 240
PICTURE = (480, 360)
"""Largest width and height of the pictures."""


class Network(NamedTuple):
    """A network whose features are shown."""

    name: str
    grid: tuple[int, int]
    """Rows and columns of patches."""
    width: int


class Shown(NamedTuple):
    """A frame of the page."""

    number: int
    picture: Image.Image
    features: Sequence[NDArray[np.int8]]
    """(P, D) of each network."""
    colors: Sequence[NDArray[np.uint8]]
    """(gh, gw, 3) of each network: the principal components."""
    drawn: Sequence[Image.Image]
    """The propagated labels by each network; empty if there are none."""


def quantized(features: Tensor) -> NDArray[np.int8]:
    """Features (gh, gw, D) as int8 (P, D), each scaled to a largest magnitude of 127."""
    rows = features.float().flatten(0, 1)
    scaled = rows * (127 / rows.abs().amax(1, keepdim=True).clamp_min(1e-30))
    result: NDArray[np.int8] = scaled.round().to(torch.int8).cpu().numpy()
    return result


def frames_of_page(frames: int, networks: Sequence[Network]) -> list[int]:
    """Numbers of the frames whose features fit into the page; empty if not one does."""
    text = 4 / 3  # base64
    each = sum(network.grid[0] * network.grid[1] * (network.width + 3) * text for network in networks)
    return spread(frames, min(MOST_FRAMES, int(0.9 * MOST_BYTES / each)))


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _entry(shown: Shown) -> dict[str, Any]:
    return {
        "number": shown.number,
        "picture": jpeg_uri(shown.picture, PICTURE),
        "features": [_text(features) for features in shown.features],
        "colors": [_text(colors) for colors in shown.colors],
        "drawn": [jpeg_uri(picture, PICTURE) for picture in shown.drawn],
    }


class PageFrames:
    """The frames of the page, as text that it embeds."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []

    def add(self, shown: Shown) -> None:
        """Append a frame."""
        self._entries.append(_entry(shown))

    def render(self, title: str, networks: Sequence[Network], frames: int, fps: float, facts: Mapping[str, str]) -> str:
        """The page of a clip of so many `frames`, with as many of those that were added as fit; at least one was."""
        most = len(self._entries)
        while True:
            chosen = [self._entries[number] for number in spread(len(self._entries), most)]
            page = self._page(title, networks, chosen, frames, fps, facts)
            if len(page) <= MOST_BYTES or most == 1:
                return page
            most = max(1, min(most - 1, int(most * MOST_BYTES / len(page))))

    def _page(
        self,
        title: str,
        networks: Sequence[Network],
        chosen: Sequence[Mapping[str, Any]],
        frames: int,
        fps: float,
        facts: Mapping[str, str],
    ) -> str:
        note = "" if len(chosen) == frames else f" The page has {len(chosen)} of them, so that it stays below 20 MB."
        return render(
            Path(__file__).with_name("look.html"),
            title=title,
            subtitle=f"{frames} frames at {fps:g} a second.{note}",
            networks=networks,
            facts=facts,
            propagated=bool(chosen[0]["drawn"]),
            look={
                "fps": fps,
                "networks": [network._asdict() for network in networks],
                "frames": chosen,
                "warm": WARM,
                "cold": COLD,
                "opacity": OPACITY,
            },
        )
