import re

import pytest
import ray
from ray.data.exceptions import SystemException

from pipeline.shards.cluster import _root, _why


def test_faults_of_the_cluster_are_told_apart_from_the_mark_that_ray_data_puts_behind_them() -> None:
    fault = ray.exceptions.ActorUnschedulableError("no worker starts")
    fault.__cause__ = SystemException()
    assert _root(fault) is fault
    outer = RuntimeError("outside")
    outer.__cause__ = fault
    assert _root(outer) is fault


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("The current node timed out\nduring startup.", "timed out during startup. Is the machine busy, or short of"),
        ("Failed to start GCS.  Last connection error: Traceback (most", "Failed to start GCS$"),
        ("Version mismatch: The cluster was started with:\n Ray: 2.59", "Version mismatch: .* with: Ray: 2.59$"),
    ],
)
def test_memory_is_asked_about_only_where_a_start_took_too_long(said: str, told: str) -> None:
    assert re.search(told, _why(RuntimeError(said)))
