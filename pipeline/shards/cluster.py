"""Ray: join or start a cluster, and run one task a shard on it."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import ray

import pipeline
from pipeline.settings import UserError
from pipeline.shards.parts import Part, read_part
from pipeline.shards.shard import ShardTask, write_shard
from pipeline.shards.versions import check_versions


def check_ray_address(address: str) -> None:
    """Make sure that something listens at `address` (host:port or ray://host:port); Ray itself waits for very long.

    Raises:
        UserError: nothing answers within ten seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # empty, or a word like `auto` that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS = {address}: {error}") from error


@contextlib.contextmanager
def ray_session(workers: int | None, packages: tuple[ModuleType, ...] = (pipeline,)) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names and send it these packages, else start one on this machine.

    Leaves no process behind. In a program that uses Ray already, its cluster is used and stays.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    check_ray_address(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; unset, Ray warns
    if address:
        options: dict[str, Any] = {"runtime_env": {"py_modules": list(packages)}}
    else:
        options = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    heeded = signal.getsignal(signal.SIGTERM)
    print("starting Ray on this machine" if not address else f"joining Ray at {address}", flush=True)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise UserError(f"cannot join the Ray cluster at RAY_ADDRESS = {address}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, heeded)  # Ray's own handler prints a stack of C++ functions
    try:
        yield
    finally:
        ray.shutdown()


class Finished(NamedTuple):
    """A shard that a task of this run wrote, and when it did, in seconds since the epoch."""

    part: Part
    started: float
    ended: float


def _root(error: BaseException) -> BaseException:
    """Where a chain of Ray's errors began."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return error


def run_shards(
    shards: list[int], task: ShardTask, versions: dict[str, str], retry: bool, workers: int | None
) -> Iterator[Finished]:
    """Write the given shards as Ray Data tasks; yields each when it is done, in any order.

    A task whose worker or node dies runs again elsewhere.

    Raises:
        UserError: the output cannot be written, or the nodes differ from this machine.
    """

    def build(row: dict[str, Any]) -> dict[str, Any]:
        started, failure = time.time(), ""
        try:
            check_versions(versions)
            write_shard(row["shard"], task, retry)
        except UserError as error:
            failure = str(error)
        except OSError as error:
            failure = f"cannot write shards to {task.out}: {error.strerror or error}"
        host = socket.gethostname()
        return {"shard": row["shard"], "host": host, "started": started, "ended": time.time(), "failure": failure}

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    kept = "finished shards are kept, run the same command again to continue"
    with ray_session(workers):
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        concurrency = min(workers, len(shards)) if workers else None
        try:
            for row in rows.map(build, num_cpus=1, concurrency=concurrency).iter_rows():
                if row["failure"]:
                    raise UserError(f"{row['failure']}; {kept}")
                part = read_part(task.out, task.shard_name(row["shard"]))
                if part is None:
                    raise UserError(
                        f"{row['host']} wrote {task.shard_name(row['shard'])} to {task.out}, but this machine does not "
                        "see it there: OUT must be on storage that all nodes share"
                    )
                yield Finished(part, row["started"], row["ended"])
        except ray.exceptions.RayError as error:
            root = _root(error)
            if not isinstance(root, ray.exceptions.RayError | ModuleNotFoundError):
                raise
            said = f"{type(root).__name__}: {root}".splitlines()[0]
            raise UserError(f"the Ray cluster could not finish the work: {said}; {kept}") from error
