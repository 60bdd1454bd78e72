"""A Ray cluster whose head and worker are started by the `ray` command, each with the home folder of its user."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from pipeline.ray.address import check_ray_address, find_cluster
from pipeline.settings import UserError
from tests.pipeline.shards.test_job import contents, job_command, wait_for_parts
from tests.processes import in_session

RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


class Home(NamedTuple):
    """The environment of a user; Ray looks for a token in the home folder."""

    folder: Path
    mode: str | None = None

    def environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        mode = {} if self.mode is None else {"RAY_AUTH_MODE": self.mode}
        soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}  # notices a dead node
        return {**outside, "HOME": str(self.folder), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **soon, **mode}


def home(folder: Path, token: str | None = None, mode: str | None = None) -> Home:
    (folder / ".ray").mkdir(parents=True)
    if token is not None:
        (folder / ".ray" / "auth_token").write_text(token)
    return Home(folder, mode)


class RayCluster:
    """`ray start --head`, and `ray start --address=...` for every further node."""

    def __init__(self, user: Home, dashboard: bool, folder: str) -> None:
        self._user, self.nodes = user, list["subprocess.Popen[str]"]()
        port, client, self.dashboard = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        self._head = ["--head", f"--port={port}", f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
        self._head += ["--disable-usage-stats", f"--include-dashboard={dashboard}"]
        self._head += [f"--dashboard-port={self.dashboard}"] if dashboard else []

    def start_head(self, cpus: int = 1) -> None:
        self._start(cpus, self._head)

    def start_node(self) -> None:
        self._start(1, [f"--address={self.address}"])

    def _start(self, cpus: int, options: list[str]) -> None:
        agent, metrics = free_ports(2)
        ports = (f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}")
        node = subprocess.Popen(
            [RAY, "start", "--block", f"--num-cpus={cpus}", *ports, *options],
            env=self._user.environment(),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.nodes.append(node)
        assert node.stdout is not None
        message = list[str]()
        while "Ray runtime started" not in (line := node.stdout.readline()):
            message.append(line)
            assert line, "".join(message)

    def kill(self, node: "subprocess.Popen[str]") -> None:
        while left := in_session(node.pid):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        node.communicate()
        self.nodes.remove(node)


@contextlib.contextmanager
def ray_cluster(user: Home, dashboard: bool = False) -> Iterator[RayCluster]:
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, for Ray's sockets
    cluster = RayCluster(user, dashboard, folder)
    try:
        yield cluster
    finally:
        for node in list(cluster.nodes):
            cluster.kill(node)
        shutil.rmtree(folder)


def kill_workers(node: "subprocess.Popen[str]") -> None:
    """Kill the processes that write shards on a node."""
    killed = list[psutil.Process]()
    while not killed:
        below = psutil.Process(node.pid).children(recursive=True)
        killed = [process for process in below if "ray::MapWorker" in "".join(process.cmdline())]
    for process in killed:
        process.kill()


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
def test_a_job_survives_the_death_of_workers_and_of_a_node_on_a_cluster_with_a_token(
    slow_job: Any, image_tree: Path, image_dataset: Path, tmp_path: Path
) -> None:
    """As docs/cluster.md says: the mode for every node, the token in every home; the driver needs no mode."""
    data, undisturbed = slow_job
    user = home(tmp_path / "user", token="t" * 64, mode="token")
    with ray_cluster(user, dashboard=True) as cluster:
        cluster.start_head()
        cluster.start_node()
        environment = {**Home(user.folder).environment(), "RAY_ADDRESS": cluster.address}
        out = tmp_path / "out"
        with subprocess.Popen(job_command(data, out), env=environment, stderr=subprocess.PIPE, text=True) as job:
            wait_for_parts(out, 2, job)
            kill_workers(cluster.nodes[0])
            wait_for_parts(out, 4, job)
            cluster.kill(cluster.nodes[1])
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
        # A process of its own: what Ray knows of tokens belongs to a whole process.
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
def test_a_job_with_a_token_joins_a_cluster_without_one_and_waits_for_nodes(
    image_tree: Path, image_dataset: Path, tmp_path: Path
) -> None:
    with ray_cluster(home(tmp_path / "cluster")) as cluster:
        cluster.start_head(cpus=0)
        driver = home(tmp_path / "driver", token="d" * 64)
        environment = {**driver.environment(), "RAY_ADDRESS": cluster.address}
        out = tmp_path / "out"
        command = job_command(image_tree, out, "--samples_per_shard", "4")
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as job:
            assert job.stderr is not None
            assert any("no node with CPUs is in the Ray cluster: waiting for one" in line for line in job.stderr)
            cluster.start_node()
            _, message = job.communicate(timeout=120)
        assert job.returncode == 0, message
        assert contents(out) == contents(image_dataset)

        # Run elsewhere: from the project's folder the nodes, which are on this machine, would find the code there.
        where = subprocess.run(
            [sys.executable, "-c", WHERE], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert "runtime_resources" in where.stdout.splitlines()[-1]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_answers_is_named_at_once(address: str) -> None:
    for look in (check_ray_address, find_cluster):
        with pytest.raises(UserError, match=f"no Ray cluster answers at RAY_ADDRESS = {address}"):
            look(address)


@pytest.mark.parametrize("address", ["head", "http://127.0.0.1:8265", "head:99999", ":6379", "head:port"])
def test_malformed_addresses_are_named(address: str) -> None:
    with pytest.raises(
        UserError, match=f"RAY_ADDRESS = {address} is not the address of a Ray cluster: allowed are HOST"
    ):
        find_cluster(address)


def test_no_address_is_this_machine() -> None:
    assert find_cluster("") == find_cluster("local") == ""


def test_auto_without_a_cluster_is_named(tmp_path: Path) -> None:
    """In a process namespace of its own, as `auto` finds any cluster of this machine."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("a process namespace needs root")
    script = "from pipeline.ray.address import find_cluster; find_cluster('auto')"
    environment = {**home(tmp_path / "home").environment(), "TMPDIR": str(tmp_path)}
    done = subprocess.run([*unshare, sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "UserError: RAY_ADDRESS = auto, but no Ray cluster runs on this machine: start one" in done.stderr
