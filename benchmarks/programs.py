"""The project's programs as child processes; ending one always ends its own children."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Programs:
    """Runs programs, also from several threads; after `stop` all have ended and no more are started."""

    def __init__(self, grace_s: float = 60.0) -> None:
        """A program that is stopped has `grace_s` seconds to save its state before it is killed."""
        self._patience_s = grace_s
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(
        self,
        argv: Sequence[str],
        log: Path | None = None,
        timeout_s: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> int | None:
        """Run a command; the argument `python` stands for this interpreter.

        Its output is appended to `log`, if given. Returns the exit status, or None if it was not started or was
        stopped at its time limit.
        """
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else None
            with self._lock:
                if self._stopped:
                    return None
                process = subprocess.Popen(
                    [sys.executable if word == "python" else word for word in argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                    start_new_session=True,  # Ctrl-C reaches this process alone, which ends the program
                )
                self._running.add(process)
            try:
                return process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                self._end([process])
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """End all programs and start no more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        self._end(running)

    @contextlib.contextmanager
    def stopped_on_failure(self) -> Iterator[None]:
        """Stop all programs when the block fails or is interrupted."""
        try:
            yield
        except BaseException:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave programs behind
            print("\nstopping: running programs save their state first", file=sys.stderr, flush=True)
            self.stop()
            raise

    def _end(self, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
        """Ask programs to end, wait, then kill them and their children."""
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._patience_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def call_in_new_process(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function of a module in a new process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **options).result()
