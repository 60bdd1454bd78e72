"""Histograms and bars as inline SVG and HTML; colours come from the page's style sheet."""

from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.preview.survey import Counts

MOST_BARS = 24
_STEPS = (1, 2, 5)
_TAIL = 0.005
"""Share of the values at each end that may lie beyond the outer bars."""


class Histogram(NamedTuple):
    """Bars of equal width over whole numbers."""

    edges: Counts
    """(n + 1,) first number of each bar, and one past the last bar."""
    heights: Counts
    """(n,); the outer bars hold what lies beyond them as well."""
    beyond: tuple[bool, bool]
    """Whether anything lies below the first and above the last bar."""


def quantile(counts: Counts, share: float) -> int:
    """The number below or at which `share` of the counted numbers lie; counts must not all be 0."""
    below = np.cumsum(counts)
    return int(np.searchsorted(below, max(1, share * below[-1]), side="left"))


def bin_counts(counts: Counts) -> Histogram:
    """At most `MOST_BARS` bars of a round width over the counts (n,) of 0, 1, ...; counts must not all be 0."""
    low, high = quantile(counts, _TAIL), quantile(counts, 1 - _TAIL)
    step = next(
        digit * 10**power
        for power in range(20)
        for digit in _STEPS
        if high // (digit * 10**power) - low // (digit * 10**power) < MOST_BARS
    )
    first, last = low // step, high // step
    edges = np.arange(first, last + 2) * step
    values = np.flatnonzero(counts)
    heights = np.zeros(len(edges) - 1, np.int64)
    np.add.at(heights, np.clip(values // step - first, 0, len(heights) - 1), counts[values])
    return Histogram(edges, heights, (bool(values[0] < edges[0]), bool(values[-1] >= edges[-1])))


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0") if value < 1000 else f"{value:,.0f}"


def histogram(title: str, counts: Counts, scale: float, unit: str) -> str:
    """A figure with the distribution of whole numbers times `scale`, in `unit`."""
    if not counts.any():
        return ""
    bars = bin_counts(counts)
    width, height, bottom, top = 360, 170, 24, 8
    pitch = width / max(len(bars.heights), 8)
    left = (width - pitch * len(bars.heights)) / 2
    most = bars.heights.max()
    parts = []
    for place, count in enumerate(bars.heights):
        low, high = bars.edges[place] * scale, bars.edges[place + 1] * scale
        tall = (height - bottom - top) * count / most
        x, y = left + place * pitch, height - bottom - tall
        before = "up to " if place == 0 and bars.beyond[0] else ""
        after = " and more" if place == len(bars.heights) - 1 and bars.beyond[1] else ""
        said = f"{before}{_number(low)} to {_number(high)} {unit}{after}: {count:,}"
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{pitch - 2:.1f}" height="{tall:.1f}" rx="1.5">'
            f"<title>{escape(said)}</title></rect>"
        )
    base = height - bottom + 0.5
    parts.append(f'<line class="axis" x1="0" x2="{width}" y1="{base}" y2="{base}"/>')
    for place in sorted({0, len(bars.heights) // 2, len(bars.heights)}):
        mark = {(0, True): "≤ ", (len(bars.heights), True): "≥ "}
        sign = mark.get((place, bars.beyond[0]) if place == 0 else (place, bars.beyond[1]), "")
        parts.append(
            f'<text x="{left + place * pitch:.1f}" y="{height - 7}" text-anchor="middle">'
            f"{sign}{_number(bars.edges[place] * scale)}</text>"
        )
    middle, low_end, high_end = (quantile(counts, share) * scale for share in (0.5, 0.05, 0.95))
    note = f"median {_number(middle)} {unit}; nine in ten lie between {_number(low_end)} and {_number(high_end)}"
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3>'
        f'<svg viewBox="-24 0 {width + 48} {height}" role="img" aria-label="{escape(title)}: {escape(note)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(note)}</figcaption></figure>"
    )


def bars(rows: list[tuple[str, int]], most: int) -> str:
    """Named horizontal bars; `most` is the count of a full one."""
    return "".join(
        f'<div class="row"><span class="label" title="{escape(name)}">{escape(name)}</span>'
        f'<span class="track"><span style="width:{100 * count / max(1, most):.1f}%"></span></span>'
        f'<span class="count">{count:,}</span></div>'
        for name, count in rows
    )


def rank_curve(counts: NDArray[np.int64]) -> str:
    """All classes from the largest to the smallest as one falling area."""
    width, height = 1000, 120
    falling = np.sort(counts)[::-1]
    places = np.unique(np.linspace(0, len(falling) - 1, min(len(falling), 500)).astype(np.int64))
    points = " ".join(
        f"{width * place / (len(falling) - 1):.1f},{height - (height - 6) * falling[place] / max(1, falling[0]):.1f}"
        for place in places
    )
    return (
        f'<svg class="curve" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="samples of each class, the largest first">'
        f'<polygon class="area" points="0,{height} {points} {width},{height}"/></svg>'
    )
