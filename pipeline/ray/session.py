"""A Ray session: join a cluster or start one on this machine."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import ray
from tqdm import tqdm

import pipeline
from pipeline.limits import limits_in_force, ray_store_bytes, too_small_for_ray
from pipeline.ray.actors import root_cause
from pipeline.ray.address import check_ray_address, find_cluster, with_own_token, with_token_for
from pipeline.ray.stderr import without_lines
from pipeline.settings import UserError
from pipeline.temporary import short_folder


def _prepare_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard may take hours; ffmpeg has its own deadline
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as well


def _trouble(address: str) -> str:
    """Why the cluster cannot work at the moment, as a sentence; empty if it can."""
    try:
        check_ray_address(address)
    except UserError as error:
        return f"{error}; unless it comes back within a minute the job ends, and the same command continues it"
    if not any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes()):
        return "no node with CPUs is in the Ray cluster: waiting for one; Ctrl-C ends the job"
    return ""


@contextlib.contextmanager
def _watched(address: str, interval_s: float = 5.0) -> Iterator[None]:
    """Print a message if the cluster loses its head or all its nodes; Ray waits silently."""
    ended = threading.Event()

    def watch() -> None:
        message = ""
        while not ended.wait(interval_s):
            if (trouble := _trouble(address)) not in ("", message):
                tqdm.write(trouble, file=sys.stderr)
            message = trouble

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(interval_s)


def _why(error: BaseException) -> str:
    """Ray's error for a failed start in one line, without stack traces and paths of deleted logs."""
    message = " ".join(str(root_cause(error)).split())
    for trace in ("Last connection error:", "Please check", "Traceback"):
        message = message.partition(trace)[0]
    message = textwrap.shorten(message, 300, placeholder=" ...").rstrip(" .")
    if "timed out" in message.lower():
        return f"{message}. Is the machine busy, or short of memory? The same command continues"
    return message


_PR_SET_CHILD_SUBREAPER = 36


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@contextlib.contextmanager
def _no_process_left() -> Iterator[None]:
    """If the block fails, kill all processes that it started, and their descendants."""
    before = _descendants()
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become our children instead of init's
    try:
        yield
    except BaseException:
        for _ in range(10):
            started = _descendants() - before
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(started, timeout=5)
        raise
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


@contextlib.contextmanager
def _started(fault: str, options: dict[str, Any]) -> Iterator[None]:
    """Start or join Ray by `ray.init`; it is shut down when the block ends or the start fails.

    Raises:
        UserError: the start failed; the message begins with `fault`.
        KeyboardInterrupt: SIGTERM arrived during the start, while Ray's own handler is installed.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    with _no_process_left():
        try:
            with without_lines(b"RAY_BACKEND_LOG_LEVEL"):  # Ray logs that it reads the variable
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except BaseException as error:
            ray.shutdown()
            if isinstance(error, SystemExit):
                raise KeyboardInterrupt from error
            if isinstance(error, Exception):  # a plain Exception if a node does not start in time
                limits = limits_in_force()
                under = f" (under {limits}: raise that)" if limits else ""
                raise UserError(f"{fault}: {_why(error)}{under}") from error
            raise
        finally:
            if in_main_thread:
                signal.signal(signal.SIGTERM, handler)  # Ray's own handler prints a stack of C++ functions
    try:
        yield
    finally:
        ray.shutdown()


_LONGEST_FOLDER = 107 - len("/s/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Longest path in bytes of a folder for Ray's sockets, whose own paths have at most 107."""


@contextlib.contextmanager
def _on_this_machine(workers: int | None) -> Iterator[None]:
    if too_small := too_small_for_ray():
        raise UserError(too_small)
    print("starting Ray on this machine", flush=True)
    with short_folder(_LONGEST_FOLDER) as folder, with_own_token():
        options: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        options["object_store_memory"] = ray_store_bytes()
        # Ray makes its folder accessible to all users, so it gets one inside a private folder.
        with _started("Ray did not start here", {**options, "_temp_dir": str(folder / "s")}):
            yield


@contextlib.contextmanager
def _on_cluster(address: str, packages: tuple[ModuleType, ...]) -> Iterator[None]:
    print(f"joining Ray at {address}", flush=True)
    with with_token_for(address):
        fault = f"cannot join the Ray cluster at RAY_ADDRESS = {address}"
        # Folders, not modules: inside `ray job submit` Ray copies these settings, and modules cannot be copied.
        folders = [str(Path(package.__path__[0])) for package in packages]
        options = {"address": address, "runtime_env": {"py_modules": folders}}
        with _started(fault, options), _watched(address):
            yield


@contextlib.contextmanager
def ray_session(workers: int | None, packages: tuple[ModuleType, ...] = (pipeline,)) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS and send it these packages, or start one on this machine.

    Leaves no process and no file behind. If Ray is already initialized, that session is used and stays open.
    With `workers` = 0 nothing is started: the work is done in this process.

    Raises:
        UserError: no cluster can be joined or started.
    """
    if workers == 0:
        yield
        return
    _prepare_ray_data()
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default; Ray warns if unset
    # Ray waits forever for prestarted workers that die before they register.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Ray prints a useless line when Ray Data's actors restart.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = find_cluster(os.environ.get("RAY_ADDRESS", ""))
    with _on_cluster(address, packages) if address else _on_this_machine(workers):
        yield
