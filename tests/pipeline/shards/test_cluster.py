"""A real Ray cluster of several nodes on this machine."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.data.exceptions import SystemException

from pipeline.shards.cluster import _root, _why
from tests.pipeline.shards.test_job import contents, job_command, wait_for_parts


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, so that all work is on the nodes that a test adds."""
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield started
    started.shutdown()


def workers_of(node: Any) -> list[int]:
    """Process ids of the tasks that run on a node."""
    raylet = node.all_processes["raylet"][0].process.pid
    listed = subprocess.run(["ps", "--ppid", str(raylet), "-o", "pid=,args="], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "ray::" in line and "Agent" not in line]


@pytest.mark.slow
def test_job_survives_the_death_of_a_node_and_of_workers(cluster: Any, tmp_path: Path, slow_job: Any) -> None:
    data, undisturbed = slow_job
    out = tmp_path / "out"
    job = subprocess.Popen(job_command(data, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    assert any("no node with CPUs is in the Ray cluster: waiting for one" in line for line in job.stderr)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    wait_for_parts(out, 2, job)
    cluster.remove_node(nodes[0], allow_graceful=False)
    wait_for_parts(out, 4, job)
    killed = workers_of(nodes[1])
    for process in killed:
        os.kill(process, signal.SIGKILL)
    assert killed
    _, said = job.communicate(timeout=120)
    assert job.returncode == 0, said
    assert contents(out) == contents(undisturbed)


WHERE = """
import ray
from pipeline.shards.cluster import ray_session

@ray.remote
def where():
    import pipeline.shards.shard
    return pipeline.shards.shard.__file__

with ray_session(None):
    print(ray.get(where.remote()))
"""


@pytest.mark.slow
def test_the_code_travels_to_the_nodes(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    # Run elsewhere: from the project's folder the nodes, which are on this machine, would find it there.
    done = subprocess.run([sys.executable, "-c", WHERE], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "runtime_resources" in done.stdout.splitlines()[-1]


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
