import functools
from pathlib import Path

import pytest
import ray
from ray.data.exceptions import SystemException

from pipeline.ray.actors import actors_that_fit, root_cause, run_on_actors, sentence
from pipeline.ray.session import ray_session
from pipeline.settings import UserError
from tests.pipeline.ray.workers import Halver

TWO_NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}]


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"), [(1, 0, 11), (2, 0, 5), (4, 0, 2), (1, 1, 2), (8, 1, 1), (9, 0, 0)]
)
def test_an_actor_must_fit_on_one_node(cpus: int, gpus: int, expected: int) -> None:
    assert actors_that_fit(TWO_NODES, cpus, gpus) == expected


def test_without_workers_items_are_processed_here_in_order(tmp_path: Path) -> None:
    with ray_session(workers=0):
        done = list(run_on_actors(functools.partial(Halver, tmp_path, None), [6, 2], "out", workers=0))
    assert [(one.item, one.result) for one in done] == [(6, 3), (2, 1)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (UserError("no such shard"), "no such shard$"),
        (OSError(28, "No space left on device"), "cannot read or write out: No space left on device; finished parts"),
    ],
)
def test_errors_of_a_worker_are_one_sentence(fault: Exception, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list(run_on_actors(functools.partial(Halver, tmp_path, fault), [2], "out", workers=0))


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
