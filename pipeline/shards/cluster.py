"""Ray: join or start a cluster, and write one shard after the other on its workers."""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import ray
from tqdm import tqdm

import pipeline
from pipeline.limits import limits_in_force, ray_store_bytes, too_small_for_ray
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


def _prepare_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard may take hours; what can hang has a deadline of its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _trouble(address: str) -> str:
    """Why the cluster cannot work now, in a sentence; empty if it can."""
    try:
        check_ray_address(address)
    except UserError as error:
        return f"{error}; unless it comes back within a minute the job ends, and the same command continues it"
    if not any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes()):
        return "no node with CPUs is in the Ray cluster: waiting for one; Ctrl-C ends the job"
    return ""


@contextlib.contextmanager
def _watched(address: str, interval_s: float = 5.0) -> Iterator[None]:
    """Say when the cluster has lost its head or all its nodes: Ray waits in silence."""
    ended = threading.Event()

    def watch() -> None:
        said = ""
        while not ended.wait(interval_s):
            if (trouble := _trouble(address)) not in ("", said):
                tqdm.write(trouble, file=sys.stderr)
            said = trouble

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(interval_s)


@contextlib.contextmanager
def without_lines(containing: bytes) -> Iterator[None]:
    """Hold back what the block writes to stderr, also from C++, and then write it without some lines."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)
            kept.seek(0)
            stderr.writelines(line for line in kept if containing not in line)


@contextlib.contextmanager
def ray_session(workers: int | None, packages: tuple[ModuleType, ...] = (pipeline,)) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names and send it these packages, else start one on this machine.

    Leaves no process behind. In a program that uses Ray already, its cluster is used and stays.
    """
    _prepare_ray_data()
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    check_ray_address(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; unset, Ray warns
    # Ray waits for ever for workers that it starts ahead and that die before they answer.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Ray Data's actors make Ray print a line about their restart that users can do nothing about.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address:
        options: dict[str, Any] = {"runtime_env": {"py_modules": list(packages)}}
    else:
        if too_small := too_small_for_ray():
            raise UserError(too_small)
        options = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        options["object_store_memory"] = ray_store_bytes()
    heeded = signal.getsignal(signal.SIGTERM)
    print("starting Ray on this machine" if not address else f"joining Ray at {address}", flush=True)
    try:
        with without_lines(b"RAY_BACKEND_LOG_LEVEL"):  # Ray says that it heeds the variable
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except Exception as error:  # a plain one where a node does not start in time
        what = f"cannot join the Ray cluster at RAY_ADDRESS = {address}" if address else "Ray did not start here"
        said = str(error).rstrip(".")
        if limits := limits_in_force():
            said += f" (under {limits}: raise that)"
        raise UserError(f"{what}: {said}. Busy, or short of memory? The same command continues") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, heeded)  # Ray's own handler prints a stack of C++ functions
    try:
        with _watched(address) if address else contextlib.nullcontext():
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


class _Writer:
    """Runs on an actor: its imports are done, and the next shard waits at it, when a shard is finished."""

    def __init__(self, task: ShardTask, versions: dict[str, str], retry: bool) -> None:
        self._task, self._versions, self._retry = task, versions, retry

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the shard `row["shard"]`. A failure is a value: Ray would retry it, and lose what it was."""
        started, failure = time.time(), ""
        try:
            check_versions(self._versions)
            write_shard(row["shard"], self._task, self._retry)
        except UserError as error:
            failure = str(error)
        except OSError as error:
            failure = f"cannot write shards to {self._task.out}: {error.strerror or error}"
        host = socket.gethostname()
        return {"shard": row["shard"], "host": host, "started": started, "ended": time.time(), "failure": failure}


def _actors(shards: int, workers: int | None) -> ray.data.ActorPoolStrategy:
    """As many actors as the cluster has CPUs, within limits; more when it grows."""
    most = min(shards, workers or shards)
    now = min(most, int(ray.cluster_resources().get("CPU", 1)))
    return ray.data.ActorPoolStrategy(min_size=1, initial_size=max(1, now), max_size=most)


def run_shards(
    shards: list[int], task: ShardTask, versions: dict[str, str], retry: bool, workers: int | None
) -> Iterator[Finished]:
    """Write the given shards on Ray Data actors; yields each when it is done, in any order.

    What a worker or node that dies had begun runs again elsewhere.

    Raises:
        UserError: the output cannot be written, or the nodes differ from this machine.
    """
    kept = "finished shards are kept, run the same command again to continue"
    with ray_session(workers):
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        compute = _actors(len(shards), workers)
        done = rows.map(_Writer, fn_constructor_args=(task, versions, retry), compute=compute, num_cpus=1)
        try:
            for row in done.iter_rows():
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
