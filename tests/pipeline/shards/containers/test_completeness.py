import numpy as np
import pytest

from pipeline.shards.containers.completeness import Extent, Statement, missing_part, missing_pictures


def test_nothing_stated_means_nothing_missing() -> None:
    assert missing_part(Statement(), 0) == ""
    assert missing_part(Statement(extents=[Extent(0.0, 7.0)]), 100) == ""


def test_bytes_are_counted() -> None:
    assert missing_part(Statement(end=100), 100) == ""
    assert missing_part(Statement(end=100), 120) == ""
    message = "the file is cut off: its last 1 bytes are missing; it states 100 bytes and has 99"
    assert missing_part(Statement(end=100), 99) == message


@pytest.mark.parametrize(("stated_s", "missing_s"), [(10.0, 0.5), (1.0, 0.5), (100.0, 2.0)])
def test_durations_have_a_tolerance(stated_s: float, missing_s: float) -> None:
    whole, cut = (Statement(extents=[Extent(stated_s, stated_s - missing_s * part)]) for part in (0.99, 1.01))
    assert missing_part(whole, 1) == ""
    assert f"it states {stated_s:.3f} s and holds {stated_s - 1.01 * missing_s:.3f} s" in missing_part(cut, 1)


def test_only_missing_pictures_at_the_end_count() -> None:
    assert missing_pictures(9.9, np.arange(40, 100) / 10) == ""
    assert missing_pictures(9.9, np.arange(40, 100) / 10 - 50) != ""
    assert missing_pictures(9.9, np.arange(0, 100) / 10 - 50) == ""
    message = "the file is cut off: it states pictures until 9.900 s and the last is at 5.900 s"
    assert missing_pictures(9.9, np.arange(60) / 10) == message


def test_two_pictures_may_be_missing_at_a_low_rate() -> None:
    assert missing_pictures(9.0, np.arange(8.0)) == ""
    assert missing_pictures(9.0, np.arange(7.0)) != ""
    assert missing_pictures(0.0, np.zeros(1)) == ""
