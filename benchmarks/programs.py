"""The project's programs as child processes, which end with all that they started, whatever happens."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class Programs:
    """Runs programs, also from several threads at a time; `stop` ends them all and starts none from then on."""

    def __init__(self, patience_s: float = 60.0) -> None:
        """Give a program that is stopped so many seconds to save its state and end, before it is killed."""
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(
        self,
        words: Sequence[str],
        log: Path | None = None,
        limit_s: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> int | None:
        """Run a command; the word `python` stands for this interpreter.

        What it prints goes to the end of `log`, if one is given. Returns its exit status, or None if it was not
        started or was stopped at its time limit.
        """
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else None
            with self._lock:
                if self._stopped:
                    return None
                process = subprocess.Popen(
                    [sys.executable if word == "python" else word for word in words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                    start_new_session=True,  # Ctrl-C reaches us alone, and we decide how the program ends
                )
                self._running.add(process)
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                self._end([process])
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """End all programs, and start none from now on."""
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
            print("\nstopping: what runs saves its state first", file=sys.stderr, flush=True)
            self.stop()
            raise

    def _end(self, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
        """Ask programs to end, wait, then kill what is left of them and of their own children."""
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._patience_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
