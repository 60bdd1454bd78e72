import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.palette import LIGHT
from pipeline.report.plots import curves, falling, histogram, inline, quantile, sparkline

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str, color: str) -> list[np.ndarray]:
    """The points (n, 2) of each path of a color of the palette; y counts downwards."""
    paths = [path for path in ET.fromstring(svg).iter(f"{SVG}path") if LIGHT[color] in path.get("style", "")]
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")), float) for path in paths]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.sampled_from([0.05, 0.5, 0.95]))
def test_quantiles_match_numpy(values: list[int], share: float) -> None:
    assert quantile(np.bincount(values), share) == np.quantile(values, share, method="inverted_cdf")


def test_bars_have_the_heights_of_their_counts() -> None:
    svg, note = histogram(np.bincount([40, 50, 50, 100]), 0.1, "s")
    assert note == "median 5 s; nine in ten are between 4 and 10"
    heights = [round(float(np.ptp(bar[:, 1])), 3) for bar in drawn(svg, "blue")]
    assert sorted(heights)[-3:] == pytest.approx([max(heights) / 2, max(heights) / 2, max(heights)], rel=0.01)
    assert sum(height > 0 for height in heights) == 3


def test_outliers_do_not_widen_the_bars() -> None:
    svg, note = histogram(np.bincount([100] * 500 + [110] * 500 + [60000]), 1, "pixels")
    bars = [bar for bar in drawn(svg, "blue") if np.ptp(bar[:, 1]) > 1]
    first, last = (float(np.ptp(bar[:, 1])) for bar in bars)
    assert last / first == pytest.approx(501 / 500, rel=1e-4)
    assert np.ptp(np.concatenate(bars)[:, 0]) > 200
    assert note.endswith("the outer bars include all values beyond them")


@pytest.mark.parametrize("values", [[0], [7] * 5, [3, 4]])
def test_equal_values(values: list[int]) -> None:
    assert any(np.ptp(bar[:, 1]) > 100 for bar in drawn(histogram(np.bincount(values), 1, "kB")[0], "blue"))


def test_curves_are_in_percent_with_a_legend() -> None:
    svg = curves([[0.1, 0.2, 0.3], [0.3, 0.1]], "steps", ["<b>", "_$x$"])
    rising = next(line for line in drawn(svg, "blue") if len(line) == 3)
    assert rising[0, 1] > rising[1, 1] > rising[2, 1]
    texts = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"first", "last", "steps", "20", "<b>", "_$x$"} <= set(texts)


def test_sparklines_skip_nan() -> None:
    svg = sparkline([[1.0, float("nan"), 0.0], [0.5, 0.5]])
    (first,), (second,) = drawn(svg, "blue"), drawn(svg, "orange")
    assert len(first) == 2
    assert 0 <= first[0, 1] < second[0, 1] < first[1, 1] <= 30


def test_a_falling_area_starts_with_the_largest() -> None:
    (area,) = drawn(falling(np.arange(21_000)), "blue")
    assert len(area) < 1100
    assert area[area[:, 1].argmin(), 0] < 10


def test_an_inline_plot_has_the_colors_of_the_page_and_no_ids() -> None:
    for svg in (histogram(np.bincount([3, 4]), 1, "s")[0], curves([[0.1, 0.2]], "steps"), falling(np.arange(60))):
        element = inline(svg)
        ET.fromstring(element)
        assert "var(--blue)" in element
        for foreign in ("http", "url(", "id=", "#", "<style"):
            assert foreign not in element


def test_plots_do_not_depend_on_matplotlibrc() -> None:
    svg = curves([[0.1, 0.2]], "steps")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        assert curves([[0.1, 0.2]], "steps") == svg
        assert matplotlib.rcParams["font.size"] == 30
