import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.palette import LIGHT
from pipeline.report.plots import bins, curves, falling, histogram, inline, quantile, sparkline

SVG = "{http://www.w3.org/2000/svg}"
values_of_any_size = st.lists(st.integers(0, 5000) | st.integers(0, 12), min_size=1, max_size=60)


def drawn(svg: str, color: str) -> list[list[tuple[float, float]]]:
    """The points of each path of a color of the palette."""
    paths = [path for path in ET.fromstring(svg).iter(f"{SVG}path") if LIGHT[color] in path.get("style", "")]
    points = (re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")) for path in paths)
    return [[(float(x), float(y)) for x, y in path] for path in points]


@given(values_of_any_size, st.sampled_from([0.05, 0.5, 0.95]))
def test_quantiles_are_those_of_the_values(values: list[int], share: float) -> None:
    assert quantile(np.bincount(values), share) == np.quantile(values, share, method="inverted_cdf")


@given(values_of_any_size)
def test_bars_hold_all_values(values: list[int]) -> None:
    edges, heights = bins(np.bincount(values))
    assert heights.sum() == len(values)
    assert 1 <= len(heights) <= 26
    assert len(set(np.diff(edges))) == 1
    for place in range(1, len(heights) - 1):
        assert heights[place] == sum(edges[place] <= value < edges[place + 1] for value in values)


def test_a_few_outliers_do_not_widen_the_bars() -> None:
    edges, heights = bins(np.bincount([100] * 500 + [110] * 500 + [60000]))
    assert edges[-1] <= 111
    assert heights[-1] == 501


def test_a_histogram_says_its_values() -> None:
    plot = histogram("Duration", np.bincount([40, 50, 50, 100]), 0.1, "s")
    assert plot.note == "median 5 s; nine in ten lie between 4 and 10"
    titles = [title.text or "" for title in ET.fromstring(plot.svg).iter(f"{SVG}title")]
    assert [title for title in titles if not title.endswith(": 0")] == [
        "4 to 4.5 s: 1",
        "5 to 5.5 s: 2",
        "10 to 10.5 s: 1",
    ]
    far = histogram("Width", np.bincount([100] * 500 + [60000]), 1, "pixels")
    assert "≥ 101" in far.svg


def test_curves_are_in_percent_and_named() -> None:
    svg = curves([[0.1, 0.2, 0.3], [0.3, 0.1]], "steps", ["<b>", "_$x$"])
    (rising,), (sinking,) = drawn(svg, "blue")[:1], drawn(svg, "orange")[:1]
    assert len(rising) == 3
    assert rising[0][1] > rising[1][1] > rising[2][1], "y counts downwards"
    assert rising[2][1] == pytest.approx(sinking[0][1])
    said = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"first", "last", "steps", "20", "<b>", "_$x$"} <= set(said)


def test_sparklines_leave_out_what_is_unknown() -> None:
    svg = sparkline([[1.0, float("nan"), 0.0], [0.5, 0.5]])
    (first,), (second,) = drawn(svg, "blue"), drawn(svg, "orange")
    assert len(first) == 2
    assert 0 <= first[0][1] < second[0][1] < first[1][1] <= 30


@pytest.mark.parametrize("classes", [2, 50, 21_000])
def test_a_falling_area_begins_with_the_largest(classes: int) -> None:
    ((*points,),) = drawn(falling(np.arange(classes)), "blue")
    assert len(points) < 1100
    assert min(y for _, y in points) == min(y for x, y in points if x < 5)


def test_a_plot_in_a_page_has_its_colors_and_nothing_from_outside() -> None:
    element = inline(histogram("Duration", np.bincount([3, 4]), 1, "s").svg)
    ET.fromstring(element)
    assert "var(--blue)" in element
    for foreign in ("http", "url(", "id=", "#", "<style"):
        assert foreign not in element


def test_the_same_plot_is_the_same_bytes_whatever_matplotlib_is_told() -> None:
    svg = curves([[0.1, 0.2]], "steps")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        assert curves([[0.1, 0.2]], "steps") == svg
        assert matplotlib.rcParams["font.size"] == 30
