"""Jobs on clusters that lose workers and nodes, with and without a token."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.ray.cluster import RAY, Home, home, kill_workers, ray_cluster
from tests.pipeline.shards.jobs import contents, job_command, running, wait_for_parts

WHERE = """
import ray
from pipeline.ray.session import ray_session

@ray.remote
def where():
    import pipeline.shards.shard
    return pipeline.shards.shard.__file__

with ray_session(None):
    print(ray.get(where.remote()))
"""
REFUSED = """
import os, sys
from pipeline.settings import UserError
from pipeline.ray.address import with_token_for

for home, path in (("none", ""), ("other", ""), ("other", "/missing")):
    os.environ |= {"HOME": f"{sys.argv[2]}/{home}", "RAY_AUTH_TOKEN_PATH": path}
    try:
        with with_token_for(sys.argv[1]):
            print("joined")
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_job_waits_for_nodes_and_survives_the_death_of_workers_and_of_its_node_on_a_cluster_with_a_token(
    slow_job: Any, image_tree: Path, image_dataset: Path, tmp_path: Path
) -> None:
    """As docs/cluster.md says: the mode for every node, the token in every home; the driver needs no mode."""
    data, undisturbed = slow_job
    user = home(tmp_path / "user", token="t" * 64, mode="token")
    with ray_cluster(user, dashboard=True) as cluster:
        cluster.start_head(cpus=0)
        environment = {**Home(user.folder).environment(), "RAY_ADDRESS": cluster.address}
        out = tmp_path / "out"
        with running(job_command(data, out, "--clips.length", "4"), environment) as job:
            assert job.stderr is not None
            assert any("no node with CPUs is in the Ray cluster: waiting for one" in line for line in job.stderr)
            cluster.start_node()
            wait_for_parts(out, 2, job)
            kill_workers(cluster.nodes, job)
            wait_for_parts(out, 4, job)
            cluster.kill(cluster.nodes[1])
            cluster.start_node()
            _, message = job.communicate(timeout=120)
            assert job.returncode == 0, message
        assert contents(out) == contents(undisturbed)

        submitted = tmp_path / "submitted"
        job_server = ("--address", f"http://127.0.0.1:{cluster.dashboard}", "--working-dir", str(Path.cwd()))
        entry = job_command(image_tree, submitted, "--samples_per_shard", "4")
        done = subprocess.run(
            [RAY, "job", "submit", *job_server, "--", *entry], env=user.environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert contents(submitted) == contents(image_dataset)

        none, other = home(tmp_path / "none"), home(tmp_path / "other", token="o" * 64)
        # In a separate process, as Ray caches tokens per process.
        script = [sys.executable, "-c", REFUSED, cluster.address, str(tmp_path)]
        refused = subprocess.run(script, env=none.environment(), capture_output=True, text=True, check=True)
        assert refused.stderr == ""
        without, wrong, unreadable = refused.stdout.splitlines()
        assert without.startswith(
            f"the Ray cluster at {cluster.address} asks for a token, and there is none in RAY_AUTH"
        )
        assert wrong.startswith(
            f"the Ray cluster at {cluster.address} refuses the token in {other.folder}/.ray/auth_token"
        )
        assert unreadable.startswith(
            "RAY_AUTH_TOKEN_PATH = /missing cannot be read or is empty: copy ~/.ray/auth_token"
        )


@pytest.mark.slow
def test_a_driver_with_a_token_joins_a_cluster_without_one_and_sends_its_code(tmp_path: Path) -> None:
    with ray_cluster(home(tmp_path / "cluster")) as cluster:
        cluster.start_head()
        driver = home(tmp_path / "driver", token="d" * 64)
        environment = {**driver.environment(), "RAY_ADDRESS": cluster.address}
        # In another folder: from the project's, the nodes on this machine would find the code by themselves.
        with running([sys.executable, "-c", WHERE], environment, cwd=tmp_path) as joined:
            output, message = joined.communicate(timeout=120)
            assert joined.returncode == 0, message
        assert "runtime_resources" in output.splitlines()[-1], "the code was sent to the node"
