"""Programs in forks of a process that has imported everything, so that a run costs no start-up."""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("training.pretrain", "training.launch", "tests.training.forks"),
        *("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2"),  # imported when needed
    ]
)


class Fork:
    """A function that runs in a session of its own; its output is kept."""

    def __init__(
        self, function: Callable[..., int | None], *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        self._output = tempfile.NamedTemporaryFile()  # noqa: SIM115 - removed with this object
        self._process: ForkServerProcess = FORKS.Process(
            target=_run, args=(self._output.name, dict(environment or {}), function, arguments)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        """Process and session."""

    @property
    def ended(self) -> bool:
        """Whether the function has ended."""
        return not self._process.is_alive()

    def wait_for(self, path: Path) -> None:
        """Wait until a file exists, or the function has ended."""
        while not path.exists() and not self.ended:
            time.sleep(0.005)

    def result(self, timeout_s: float = 240) -> tuple[int, str]:
        """Exit status (negative: signal) and output, once it has ended."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode, Path(self._output.name).read_text()


def train(
    options: Mapping[str, object],
    send: int = 0,
    after_s: float = 0.0,
    at_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Train with `options` and these variables beside ours; returns exit status and output.

    The signal `send` is sent `after_s` seconds after the start, or once `at_file` exists.
    """
    fork = Fork(_train, words(options), environment=environment)
    due = time.monotonic() + after_s
    while send and not fork.ended:
        if at_file.exists() if at_file else time.monotonic() >= due:
            os.kill(fork.pid, send)
            break
        time.sleep(0.002)
    return fork.result()


def free_port() -> int:
    """A port of the loopback that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def start_ranks(options: Mapping[str, object], ranks: int = 2) -> list[Fork]:
    """Train on several ranks of this machine, as a launcher starts them."""
    return [Fork(_train, words(options), environment=environment) for environment in rank_environments(ranks)]


def rank_environments(ranks: int) -> list[dict[str, str]]:
    """What a launcher puts into the environments of several ranks of this machine."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return [{**address, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def run_ranks(function: Callable[[int, Path], None], folder: Path, ranks: int = 2) -> None:
    """Call `function(rank, folder)` on several ranks at once."""
    for fork in [Fork(function, rank, folder) for rank in range(ranks)]:
        status, message = fork.result()
        assert status == 0, message


def still_running(word: str, timeout_s: float = 20.0) -> list[str]:
    """Command lines with `word` of the processes that are still alive after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while (alive := list(_command_lines(word))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def _command_lines(word: str) -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            line = path.read_text(errors="replace").replace("\0", " ")
            if word in line:
                yield line


def launch(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Fork:
    """Start `python -m training.launch` with these arguments."""
    return Fork(_launch, list(arguments), environment=environment)


def words(options: Mapping[str, object]) -> list[str]:
    """Options as a command line."""
    return [f"--{key}={value}" for key, value in options.items()]


def program(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Fork:
    """Start `python -m MODULE OPTION...`."""
    return Fork(_program, *argv[2:], environment=environment)


def _run(
    output: str, environment: dict[str, str], function: Callable[..., int | None], arguments: Sequence[object]
) -> None:
    os.setsid()
    os.chdir(ROOT)
    stream = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    os.environ |= environment
    raise SystemExit(function(*arguments))


def _train(arguments: list[str]) -> None:
    import sys

    from pipeline.settings import run_command
    from training.pretrain import PretrainCommand, main

    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})  # one thread: the models are tiny
    sys.argv = ["pretrain.py", *arguments]
    run_command(PretrainCommand, main)


def _program(module: str, *arguments: str) -> None:
    import runpy
    import sys

    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _launch(arguments: list[str]) -> int:
    from training.launch import launch

    return launch(arguments)
