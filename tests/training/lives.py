"""A process that has everything imported and forks a training run for each command line: a run costs no start-up.

Started as `python -m tests.training.lives`; reads a JSON object a line and answers each with the run's exit status.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Lives:
    """The forking process, seen from the tests."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.training.lives"]
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        options: Mapping[str, object],
        send: int = 0,
        after_s: float = 0.0,
        at_file: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Train with `options` and these variables beside ours; returns exit status (negative: signal) and output.

        With `send`, that signal is sent `after_s` seconds after the start, or once `at_file` is there.
        """
        arguments = [f"--{key}={value}" for key, value in options.items()]
        order: dict[str, object] = {
            "arguments": arguments,
            "send": send,
            "after_s": after_s,
            "at_file": str(at_file or ""),
        }
        order["environment"] = dict(environment or {})
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        return answer["status"], answer["said"]

    def close(self) -> None:
        """End the process."""
        self._server.communicate()


@contextmanager
def lives() -> Iterator[Lives]:
    """`Lives` that end with the context."""
    server = Lives()
    try:
        yield server
    finally:
        server.close()


def _live(arguments: list[str], output: int) -> None:
    """Train in this process, a fresh fork, as the program does."""
    from pipeline.settings import run_command
    from training.pretrain import PretrainCommand, main

    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["pretrain.py", *arguments]
    status = 1
    try:
        run_command(PretrainCommand, main)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # a fork must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    import training.pretrain  # noqa: F401 - what all forks share

    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})  # one thread: the models are tiny
    for line in sys.stdin:
        order = json.loads(line)
        with os.fdopen(os.memfd_create("said"), "w+") as message:
            child = os.fork()
            if not child:
                os.environ |= order["environment"]
                _live(order["arguments"], message.fileno())
            if order["send"]:
                due, at_file = time.monotonic() + order["after_s"], order["at_file"]
                while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    if Path(at_file).exists() if at_file else time.monotonic() >= due:
                        os.kill(child, order["send"])
                        break
                    time.sleep(0.002)
            _, status = os.waitpid(child, 0)
            message.seek(0)
            answer = {"status": os.waitstatus_to_exitcode(status), "said": message.read()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _serve()
