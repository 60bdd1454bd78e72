import functools
from pathlib import Path

import pytest
import ray
from ray.data.exceptions import SystemException

from pipeline.ray.actors import _Actor, actors_that_fit, root_cause, run_on_actors, sentence
from pipeline.settings import UserError

TWO_NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}]


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"), [(1, 0, 11), (2, 0, 5), (4, 0, 2), (1, 1, 2), (8, 1, 1), (9, 0, 0)]
)
def test_an_actor_must_fit_on_one_node(cpus: int, gpus: int, expected: int) -> None:
    assert actors_that_fit(TWO_NODES, cpus, gpus) == expected


class Halver:
    """Writes half of each item; fails with `fault` if given."""

    def __init__(self, out: Path, fault: Exception | None) -> None:
        if isinstance(fault, UserError):
            raise fault
        self._out, self._fault = out, fault

    def run(self, item: int) -> int:
        if self._fault is not None:
            raise self._fault
        (self._out / str(item)).write_text(str(item // 2))
        return item // 2


def test_each_item_is_done_once_and_reported(ray_here: None, tmp_path: Path) -> None:
    make_halver = functools.partial(Halver, tmp_path, None)
    done = list(run_on_actors(make_halver, [2, 4, 6], str(tmp_path), cpus=4, gpus=True))
    assert {one.item: one.result for one in done} == {2: 1, 4: 2, 6: 3}
    assert all(one.started <= one.ended for one in done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "6"]


def test_errors_on_a_node_are_one_sentence(ray_here: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no such shard$"):
        list(run_on_actors(functools.partial(Halver, tmp_path, UserError("no such shard")), [2], "out", workers=1))
    full = functools.partial(Halver, tmp_path, OSError(28, "No space left on device"))
    failure = _Actor(full, "out")({"item": 2})["failure"]
    assert failure.startswith("cannot read or write out: No space left on device; finished parts are kept")


def test_a_missing_package_is_named() -> None:
    message = sentence(ModuleNotFoundError("No module named 'faiss'", name="faiss"), "out")
    assert "lacks the package faiss: install the same packages on all nodes" in message


def test_the_root_cause_is_not_the_empty_exception_of_ray_data() -> None:
    fault = ray.exceptions.ActorUnschedulableError("no worker starts")
    fault.__cause__ = SystemException()
    assert root_cause(fault) is fault
    outer = RuntimeError("outside")
    outer.__cause__ = fault
    assert root_cause(outer) is fault
