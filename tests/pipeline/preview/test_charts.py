import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preview.charts import MOST_BARS, bars, bin_counts, histogram, quantile, rank_curve

values_of_any_size = st.lists(st.integers(0, 5000) | st.integers(0, 12), min_size=1, max_size=60)


@given(values_of_any_size, st.sampled_from([0.05, 0.5, 0.95]))
def test_quantiles_are_those_of_the_values(values: list[int], share: float) -> None:
    expected = np.quantile(values, share, method="inverted_cdf")
    assert quantile(np.bincount(values), share) == expected


@given(values_of_any_size)
def test_bars_hold_all_values(values: list[int]) -> None:
    bars = bin_counts(np.bincount(values))
    assert bars.heights.sum() == len(values)
    assert len(bars.heights) <= MOST_BARS
    steps = np.diff(bars.edges)
    assert len(set(steps.tolist())) == 1
    assert f"{steps[0]:g}".rstrip("0") in ("1", "2", "5")
    assert (bars.edges % steps[0] == 0).all()
    for place in range(1, len(bars.heights) - 1):
        assert bars.heights[place] == sum(bars.edges[place] <= value < bars.edges[place + 1] for value in values)
    assert bars.beyond == (min(values) < bars.edges[0], max(values) >= bars.edges[-1])


def test_a_few_outliers_do_not_widen_the_bars() -> None:
    counts = np.bincount([100] * 500 + [110] * 500 + [60000])
    histogram = bin_counts(counts)
    assert histogram.edges[-1] <= 111
    assert histogram.beyond == (False, True)
    assert histogram.heights[-1] == 501


def test_a_histogram_is_valid_and_says_its_values() -> None:
    figure = ET.fromstring(histogram("Duration", np.bincount([40, 50, 50, 100]), 0.1, "s"))
    assert "median 5 s; nine in ten lie between 4 and 10" in "".join(figure.itertext())
    titles = [title.text or "" for title in figure.iter("title")]
    assert [title.rpartition(": ")[2] for title in titles if not title.endswith(": 0")] == ["1", "2", "1"]
    assert titles[0].startswith("4 to ")
    assert histogram("Duration", np.zeros(3, np.int64), 0.1, "s") == ""


def test_bars_and_curve_are_valid_and_names_are_escaped() -> None:
    rows = ET.fromstring(f"<div>{bars([('<b>&', 10), ('none', 0)], 10)}</div>")
    assert [row[0].text for row in rows] == ["<b>&", "none"]
    assert [row[1][0].get("style") for row in rows] == ["width:100.0%", "width:0.0%"]
    for classes in (2, 50, 21_000):
        curve = ET.fromstring(rank_curve(np.arange(classes)))
        points = [tuple(map(float, point.split(","))) for point in (curve[0].get("points") or "").split()]
        heights = [y for _, y in points[1:-1]]
        assert heights == sorted(heights), "the largest class stands first, and y counts downwards"
        assert points[1][0] == 0
        assert points[-2][0] == pytest.approx(1000)
        assert len(points) <= 502
