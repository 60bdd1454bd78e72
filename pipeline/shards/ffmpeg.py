"""Run ffmpeg as a child process with limits on time, memory and output that ends with this process."""

import contextlib
import fcntl
import functools
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import imageio_ffmpeg

from pipeline.limits import shown_limit, smaller_limit, user_limit
from pipeline.settings import UserError

STDERR_BYTES_KEPT = 2000
_ERROR = re.compile(rb"(\[[^\]]*\] )*?\[(error|fatal|panic)\] ")
_NO_MEMORY = re.compile(rb"Cannot allocate memory|Resource temporarily unavailable|failed to map segment")


class FfmpegError(Exception):
    """ffmpeg failed; the message is the beginning of its own."""


class FfmpegTimeout(FfmpegError):  # noqa: N818
    """ffmpeg was killed at its deadline."""


class FfmpegFlood(FfmpegError):  # noqa: N818
    """ffmpeg was killed because it wrote too much."""


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg on PATH, else the binary of the imageio-ffmpeg wheel."""
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


@contextlib.contextmanager
def memory_file(content: bytes = b"") -> Iterator[IO[bytes]]:
    """An unnamed file in memory that a child process can read or write by its descriptor."""
    with os.fdopen(os.memfd_create("ffmpeg"), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file


def _bind(process: int, lifeline: int, limits: dict[int, int]) -> None:
    """Set resource limits of `process`, and let the kernel kill it when the other end of the pipe `lifeline` closes.

    A `preexec_fn` could do the same but makes Python fork instead of vfork, and copying the page tables of a process
    with Ray and torch loaded costs 9 ms per clip.
    """
    with contextlib.suppress(ProcessLookupError):  # it has already exited
        for limit, value in limits.items():
            lower = smaller_limit(value, resource.prlimit(process, limit)[0])
            resource.prlimit(process, limit, (lower, lower))
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, process)
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _lines(stream: IO[bytes], deadline: float) -> Iterator[bytes]:
    """Yield the lines of `stream` as they arrive, and long lines in parts.

    Raises:
        TimeoutError: the stream is still open at `deadline` (monotonic clock).
    """
    rest = b""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        chunk = os.read(stream.fileno(), 1 << 16)
        *lines, rest = (rest + chunk).splitlines(keepends=True) or [b""]
        yield from lines
        if not chunk or len(rest) >= 1 << 16 or rest.endswith(b"\n"):
            yield rest
            rest = b""
        if not chunk:
            return


def _check_user_limits(status: int, message: bytes, max_memory: int, max_written: int) -> None:
    """Raise UserError if ffmpeg failed because of the user's own limits, which is no fault of the clip."""
    limits = {resource.RLIMIT_FSIZE: max_written, resource.RLIMIT_AS: max_memory}
    lower = {kind for kind, ours in limits.items() if smaller_limit(ours, user_limit(kind)) != ours}
    if status == -signal.SIGXFSZ and resource.RLIMIT_FSIZE in lower:
        raise UserError(f"ffmpeg wrote more than `{shown_limit(resource.RLIMIT_FSIZE)}` allows: raise that limit")
    short_of_memory = status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGKILL) or _NO_MEMORY.search(message)
    if short_of_memory and resource.RLIMIT_AS in lower:
        limit = shown_limit(resource.RLIMIT_AS)
        raise UserError(f"ffmpeg needs more memory than `{limit}` allows: raise that limit, to 4194304 for 8K clips")


def run_ffmpeg(
    arguments: list[str],
    deadline_s: float,
    stdin: bytes | None = None,
    pass_fds: Sequence[int] = (),
    max_memory: int = resource.RLIM_INFINITY,
    max_written: int = resource.RLIM_INFINITY,
    watch: Callable[[bytes], None] | None = None,
    stdout: IO[bytes] | None = None,
) -> bytes:
    """Run `ffmpeg ARGUMENTS` and return its standard output, or write that to the file `stdout` and return nothing.

    It inherits the descriptors `pass_fds`. It is killed at the deadline, if it writes more than `max_written` bytes to
    its output or to one file, and when this process dies; an allocation beyond `max_memory` bytes of address space
    fails, which it reports as an error. Lower limits of the user (`ulimit`) apply.

    `watch` is called with each line of its log at level "info"; an exception in it ends ffmpeg.

    Raises:
        FfmpegError: it exited with an error.
        FfmpegTimeout: it ran longer than `deadline_s` seconds.
        FfmpegFlood: it wrote more than `max_written` bytes.
        UserError: a limit of the user (`ulimit`) stopped it.
    """
    level = ["-loglevel", "error"] if watch is None else ["-nostats", "-loglevel", "level+info"]
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", *level, *arguments]
    deadline = time.monotonic() + deadline_s
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(memory_file()) if stdout is None else stdout
        source = subprocess.DEVNULL if stdin is None else stack.enter_context(memory_file(stdin))
        lifeline, our_end = os.pipe()
        stack.callback(os.close, our_end)
        try:
            process = stack.enter_context(
                subprocess.Popen(
                    command, stdin=source, stdout=output, stderr=subprocess.PIPE, pass_fds=(*pass_fds, lifeline)
                )
            )
            stack.callback(process.kill)
            limits = {resource.RLIMIT_AS: max_memory, resource.RLIMIT_FSIZE: max_written, resource.RLIMIT_CORE: 0}
            _bind(process.pid, lifeline, limits)
        finally:
            os.close(lifeline)
        assert process.stderr is not None
        message = b""
        try:
            for line in _lines(process.stderr, deadline):
                if watch is None or _ERROR.match(line):
                    message += line[: STDERR_BYTES_KEPT - len(message)]
                else:
                    watch(line)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise FfmpegTimeout(f"no end after {deadline_s:g} s") from error
        if status != 0:
            _check_user_limits(status, message, max_memory, max_written)
        if status == -signal.SIGXFSZ:
            raise FfmpegFlood(f"more than {max_written} bytes of output")
        if status != 0:
            raise FfmpegError(message.decode(errors="replace").strip() or f"exit status {status}")
        if stdout is not None:
            return b""
        output.seek(0)
        return output.read()


@functools.cache
def ffmpeg_version() -> str:
    """Version of ffmpeg."""
    return run_ffmpeg(["-version"], deadline_s=60).decode(errors="replace").split()[2]
