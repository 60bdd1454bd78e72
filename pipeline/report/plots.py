"""Plots as SVG, and as PNG, drawn by matplotlib in the palette's colors; the same values give the same bytes."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.report.palette import LIGHT, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Counts = NDArray[np.int64]
"""(n,) counts of the integers 0 to n - 1."""
_STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 12, "font.sans-serif": ["DejaVu Sans"]},
    **{"text.color": LIGHT["soft"], "axes.edgecolor": LIGHT["line"], "grid.color": LIGHT["line"]},
    **{"axes.labelcolor": LIGHT["soft"], "xtick.labelcolor": LIGHT["soft"], "ytick.labelcolor": LIGHT["soft"]},
    **{"axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "text.parse_math": False},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False, "xtick.major.pad": 8},
}
_TAIL = 0.005
"""Share of the values at each end that is in the outer bar of a histogram."""


def inline(svg: str) -> str:
    """An SVG document as an element of a page, with the colors of the page's style sheet."""
    element = re.sub(r'.*?<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1, flags=re.DOTALL)
    element = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*| id=\"[^\"]*\"", "", element, flags=re.DOTALL)
    for name, color in LIGHT.items():
        element = element.replace(color, f"var(--{name})")
    return element


def quantile(counts: Counts, share: float) -> int:
    """The smallest integer with at least `share` of the values at or below it; counts must not all be 0."""
    below = np.cumsum(counts)
    return int(np.searchsorted(below, max(1, share * below[-1]), side="left"))


def histogram(counts: Counts, scale: float, unit: str) -> tuple[str, str]:
    """The distribution of integers times `scale`, in `unit`, and a caption; counts must not all be 0."""
    from matplotlib.ticker import MaxNLocator

    low, high = quantile(counts, _TAIL), quantile(counts, 1 - _TAIL)
    edges = np.asarray(MaxNLocator(24, integer=True).tick_values(low, high + 1))

    def draw(axes: "Axes") -> None:
        values = np.arange(len(counts)).clip(low, high)
        axes.hist(values * scale, (edges * scale).tolist(), weights=counts, rwidth=0.92, color=LIGHT["blue"])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.grid(axis="y")

    middle, first, last = (_number(quantile(counts, share) * scale) for share in (0.5, 0.05, 0.95))
    note = f"median {middle} {unit}; nine in ten are between {first} and {last}"
    if np.flatnonzero(counts)[-1] > high or np.flatnonzero(counts)[0] < low:
        note += "; the outer bars include all values beyond them"
    return _plot((360, 170), draw), note


def falling(counts: NDArray[np.integer]) -> str:
    """Counts (n,) in descending order as one area."""
    shown = np.unique(np.linspace(0, len(counts) - 1, 500).astype(np.int64))

    def draw(axes: "Axes") -> None:
        axes.stairs(np.sort(counts)[::-1][shown], fill=True, color=LIGHT["blue"])
        axes.set(xlim=(0, len(shown)), ylim=(0, None), xticks=[], yticks=[])

    return _plot((1000, 120), draw)


def curves(lines: Sequence[Sequence[float]], x_label: str, names: Sequence[str] = ()) -> str:
    """Curves of fractions, in percent, over equally spaced points; `names` make a legend."""

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        drawn = [
            axes.plot(np.linspace(0, 1, len(line)), 100 * np.asarray(line), color=LIGHT[series(number)])[0]
            for number, line in enumerate(lines)
        ]
        axes.set(xlim=(0, 1), xticks=[0, 1], xticklabels=["first", "last"])
        axes.set_xlabel(x_label)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        if names:
            axes.figure.legend(drawn, names, loc="outside upper left", ncols=4)

    return _plot((680, 280), draw)


class Chart(NamedTuple):
    """Curves over the same numbers, such as the steps of a run."""

    title: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """Positions and values of each curve by its name."""


def _draw_chart(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, (name, (positions, values)) in enumerate(chart.lines.items()):
        alone = {"marker": "o"} if len(positions) == 1 else {}
        axes.plot(positions, values, color=LIGHT[series(number)], label=name, **alone)  # type: ignore[arg-type]
    axes.set_title(chart.title)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y")
    if len(chart.lines) > 1:
        axes.legend(fontsize=9, ncols=2)


def chart_svg(chart: Chart) -> str:
    """A chart as an SVG document."""
    return _plot((420, 300), lambda axes: _draw_chart(axes, chart))


def charts_png(charts: Sequence[Chart]) -> bytes:
    """Charts side by side as a PNG; there must be at least one."""
    stream = io.BytesIO()
    with _figure((420 * len(charts), 300)) as figure:
        for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
            _draw_chart(axes, chart)
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def sparkline(lines: Sequence[Sequence[float]]) -> str:
    """Small curves of fractions without axes, from 0 at the bottom to 1 at the top; NaN is skipped."""

    def draw(axes: "Axes") -> None:
        for number, line in enumerate(lines):
            values = np.asarray(line, float)
            x, known = np.linspace(0, 1, len(values)), np.isfinite(values)
            axes.plot(x[known], values[known], color=LIGHT[series(number)])
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()

    return _plot((170, 30), draw)


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0") if value < 1000 else f"{value:,.0f}"


@contextlib.contextmanager
def _figure(size: tuple[int, int]) -> "Iterator[Figure]":
    """Context with a figure of `size` pixels that does not depend on the user's matplotlibrc."""
    import matplotlib
    from matplotlib.figure import Figure

    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context({**defaults, **_STYLE}):
        figure = Figure((size[0] / 72, size[1] / 72))
        figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03)
        yield figure


def _plot(size: tuple[int, int], draw: Callable[["Axes"], None]) -> str:
    """An SVG document of `size` pixels."""
    stream = io.StringIO()
    with _figure(size) as figure:
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        draw(axes)
        for artist in axes.findobj():
            artist.set_clip_on(False)  # clip paths have ids, which would have to be unique in a page
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    return " ".join(stream.getvalue().split()) + "\n"
