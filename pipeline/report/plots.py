"""Plots as SVG documents: drawn by matplotlib in the palette's colors, with text as text, the same bytes every time."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.report.palette import LIGHT, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Counts = NDArray[np.int64]
"""(n,) how often 0, 1, ... n - 1 occur."""
_STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 12, "font.sans-serif": ["DejaVu Sans"]},
    **{"text.color": LIGHT["soft"], "axes.edgecolor": LIGHT["line"], "grid.color": LIGHT["line"]},
    **{"axes.labelcolor": LIGHT["soft"], "xtick.labelcolor": LIGHT["soft"], "ytick.labelcolor": LIGHT["soft"]},
    **{"axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "text.parse_math": False},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False, "xtick.major.pad": 8},
}
_MOST_BARS = 24
_TAIL = 0.005
"""Share of the counts at each end that may lie beyond the outer bars."""


class Histogram(NamedTuple):
    """A distribution, and what it says in words."""

    title: str
    svg: str
    note: str


def inline(svg: str) -> str:
    """An SVG document as an element of a page, in the colors of its style sheet."""
    element = re.sub(r'.*?<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1, flags=re.DOTALL)
    element = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*| id=\"[^\"]*\"", "", element, flags=re.DOTALL)
    for name, color in LIGHT.items():
        element = element.replace(color, f"var(--{name})")
    return element


def quantile(counts: Counts, share: float) -> int:
    """The number below or at which `share` of the counted numbers lie; counts must not all be 0."""
    below = np.cumsum(counts)
    return int(np.searchsorted(below, max(1, share * below[-1]), side="left"))


def bins(counts: Counts) -> tuple[Counts, Counts]:
    """Edges (b + 1,) and heights (b,) of at most about `_MOST_BARS` bars of a round width; counts must not all be 0.

    The outer bars hold the rare values beyond them as well.
    """
    from matplotlib.ticker import MaxNLocator

    low, high = quantile(counts, _TAIL), quantile(counts, 1 - _TAIL)
    ticks = MaxNLocator(_MOST_BARS, steps=[1, 2, 5, 10], integer=True).tick_values(low, high + 1)
    edges = np.rint(ticks).astype(np.int64)
    edges = edges[np.searchsorted(edges, low, "right") - 1 : np.searchsorted(edges, high, "right") + 1]
    values = np.flatnonzero(counts)
    heights, _ = np.histogram(values.clip(edges[0], edges[-1] - 1), edges, weights=counts[values])
    return edges, heights.astype(np.int64)


def histogram(title: str, counts: Counts, scale: float, unit: str) -> Histogram:
    """The distribution of whole numbers times `scale`, in `unit`; counts must not all be 0."""
    edges, heights = bins(counts)
    values = np.flatnonzero(counts)
    labels = [_number(edge * scale) for edge in edges]
    labels[0] = "≤ " * bool(values[0] < edges[0]) + labels[0]
    labels[-1] = "≥ " * bool(values[-1] >= edges[-1]) + labels[-1]

    def draw(axes: "Axes") -> None:
        step = int(edges[1] - edges[0])
        bars = axes.bar(edges[:-1], heights, 0.92 * step, align="edge", color=LIGHT["blue"])
        for place, bar in enumerate(bars):
            bar.set_gid(f"title:{labels[place]} to {labels[place + 1]} {unit}: {heights[place]:,}")
        shown = sorted({0, len(edges) // 2, len(edges) - 1})
        around = max(0, 8 - len(heights)) * step / 2
        axes.set(xlim=(edges[0] - around, edges[-1] + around), yticks=[])
        axes.set_xticks(edges[shown], [labels[place] for place in shown])

    middle, first, last = (_number(quantile(counts, share) * scale) for share in (0.5, 0.05, 0.95))
    note = f"median {middle} {unit}; nine in ten lie between {first} and {last}"
    return Histogram(title, _on_axes((360, 170), (26, 24, 26, 8), draw), note)


def falling(counts: NDArray[np.integer]) -> str:
    """Counts (n,) from the largest to the smallest as one area."""
    heights = np.sort(counts)[::-1]
    places = np.unique(np.linspace(0, len(heights) - 1, min(len(heights), 500)).astype(np.int64))

    def draw(axes: "Axes") -> None:
        axes.fill_between(places, heights[places], color=LIGHT["blue"], linewidth=0)
        axes.set(xlim=(0, max(1, len(heights) - 1)), ylim=(0, max(1, 1.05 * heights[0])), xticks=[], yticks=[])

    return _on_axes((1000, 120), (0, 1, 0, 0), draw)


def curves(lines: Sequence[Sequence[float]], x_label: str, names: Sequence[str] = ()) -> str:
    """Curves of fractions, in percent, over equally spaced points from the first to the last; names make a legend."""

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        drawn = [
            axes.plot(np.linspace(0, 1, len(line)), 100 * np.asarray(line), color=LIGHT[series(number)])[0]
            for number, line in enumerate(lines)
        ]
        axes.set(xlim=(0, 1), xticks=[0, 1], xticklabels=["first", "last"])
        axes.set_xlabel(x_label, labelpad=-14)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        if names:
            axes.legend(drawn, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)

    return _on_axes((680, 280), (36, 32, 16, 34 if names else 10), draw)


def sparkline(lines: Sequence[Sequence[float]]) -> str:
    """Small curves of fractions without axes, from 0 at the bottom to 1 at the top; NaN is skipped."""

    def draw(figure: "Figure") -> None:
        from matplotlib.lines import Line2D

        for number, line in enumerate(lines):
            values = np.asarray(line, float)
            x, known = np.linspace(0.01, 0.99, len(values)), np.isfinite(values)
            figure.add_artist(Line2D(x[known], 0.06 + 0.88 * values[known], color=LIGHT[series(number)]), clip=False)

    return _document((170, 30), draw)


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0") if value < 1000 else f"{value:,.0f}"


def _on_axes(size: tuple[int, int], margins: tuple[int, int, int, int], draw: Callable[["Axes"], None]) -> str:
    """An SVG document of `size` with axes inside of left, bottom, right and top margins."""
    (width, height), (left, bottom, right, top) = size, margins
    inner = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)

    def on_axes(figure: "Figure") -> None:
        axes = figure.add_axes(inner)
        axes.set_axisbelow(True)
        draw(axes)
        for artist in (*axes.lines, *axes.patches, *axes.collections, *axes.get_ygridlines()):
            artist.set_clip_on(False)

    return _document(size, on_axes)


def _document(size: tuple[int, int], draw: Callable[["Figure"], None]) -> str:
    """An SVG document of `size` pixels, whatever the user's matplotlibrc says."""
    import matplotlib
    from matplotlib.figure import Figure

    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    stream = io.StringIO()
    with matplotlib.rc_context({**defaults, **_STYLE}):
        figure = Figure((size[0] / 72, size[1] / 72))
        draw(figure)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    return re.sub(r'<g id="title:([^"]*)">', r"<g><title>\1</title>", stream.getvalue())
