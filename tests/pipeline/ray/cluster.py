"""A Ray cluster whose head and workers are started by the `ray` command, each with the home folder of its user."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

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

    def _start(self, cpus: int, options: list[str], attempts: int = 3) -> None:
        """Start a node; on a busy machine Ray gives up after 30 seconds, and is started again."""
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
            if not line:
                self.kill(node)
                assert attempts > 1, "".join(message)
                self._start(cpus, options, attempts - 1)
                return

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


def kill_workers(nodes: "list[subprocess.Popen[str]]", job: "subprocess.Popen[str]") -> None:
    """Kill the processes that write the shards of a job, on whichever nodes they are."""
    killed = list[psutil.Process]()
    while not killed:
        assert job.poll() is None, "the job ended before its workers could be killed"
        time.sleep(0.02)
        below = [process for node in nodes for process in psutil.Process(node.pid).children(recursive=True)]
        killed = [process for process in below if "ray::MapWorker" in "".join(process.cmdline())]
    for process in killed:
        process.kill()
