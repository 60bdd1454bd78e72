import numpy as np
import pytest

from pipeline.sampling.order import DatasetSize, OrderSettings, sample_order
from pipeline.sampling.visits import Visits

SIZES = (DatasetSize((3, 4, 2), 9.0), DatasetSize((4, 2), 6.0))
WINDOW = OrderSettings(kind="window", window=2)


@pytest.mark.parametrize("order", [OrderSettings(), WINDOW])
def test_ranks_share_the_order_of_the_reader(order: OrderSettings) -> None:
    ranks = [Visits(order, 5, SIZES, rank, 2) for rank in range(2)]
    taken = [[*visits, *visits] for visits in ranks]
    assert {len(visits) for visits in ranks} == {7}
    expected = sample_order(order, 5, np.arange(28), SIZES)
    pairs = list(zip(expected.epoch.tolist(), expected.row.tolist(), strict=True))
    assert taken == [pairs[0::2], pairs[1::2]]


def test_every_sample_is_visited_once_an_epoch() -> None:
    visits = Visits(WINDOW, 5, SIZES)
    for epoch in range(2):
        assert sorted(visits) == [(epoch, row) for row in range(15)]


def test_a_run_continues_at_any_visit() -> None:
    whole = Visits(WINDOW, 1, SIZES, 1, 3)
    expected = [*whole, *whole, *whole, *whole]
    for used in (0, 3, 5, 7, 14):
        resumed = Visits(WINDOW, 1, SIZES, 1, 3)
        resumed.done = used
        first = list(resumed)
        assert first == expected[used : (used // 5 + 1) * 5]
        assert list(resumed) == expected[(used // 5 + 1) * 5 :][:5]
