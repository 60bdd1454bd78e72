import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from evaluation.background import map_ahead


def test_results_come_in_order_whatever_finishes_first() -> None:
    second_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_done.wait(10)
        if number == 1:
            second_done.set()
        return 10 * number

    with ThreadPoolExecutor(2) as pool:
        assert list(map_ahead(pool, work, range(5), 3)) == [0, 10, 20, 30, 40]


def test_no_more_items_are_drawn_than_are_allowed_ahead() -> None:
    drawn: list[int] = []
    enough, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            if len(drawn) == 4:
                enough.set()
            yield number

    def work(number: int) -> int:
        assert go_on.wait(10)
        return number

    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as consumer:
        results = consumer.submit(lambda: list(map_ahead(pool, work, items(), 4)))
        assert enough.wait(10)
        assert not wait([results], timeout=0.2).done
        assert len(drawn) == 4
        go_on.set()
        assert results.result() == list(range(20))


def test_a_failure_is_raised_in_its_place() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, lambda number: 1 // number, [2, 1, 0, 1], 2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
