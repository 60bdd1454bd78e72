"""Run ffmpeg as a child process that cannot hang, flood memory or disk, or outlive us."""

import contextlib
import fcntl
import functools
import os
import resource
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import IO

import imageio_ffmpeg

STDERR_BYTES_KEPT = 2000


class FfmpegError(Exception):
    """ffmpeg failed; the message holds the start of what it said."""


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
    """A nameless file in memory that a child process can read or write by its descriptor."""
    with os.fdopen(os.memfd_create("ffmpeg"), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file


def _bind(process: int, lifeline: int, limits: dict[int, int]) -> None:
    """Limit what `process` may take, and let the kernel kill it when the other end of the pipe `lifeline` closes.

    All from outside: a `preexec_fn`, which could do the same, makes Python fork instead of vfork, and copying the page
    tables of a process that has Ray and torch loaded costs 9 ms a clip.
    """
    with contextlib.suppress(ProcessLookupError):  # it is over already
        for limit, value in limits.items():
            resource.prlimit(process, limit, (value, value))
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, process)
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _drain(stream: IO[bytes], keep: int, deadline: float) -> bytes:
    """Read `stream` to its end and return its first `keep` bytes.

    Raises:
        TimeoutError: it has not ended when the monotonic clock passes `deadline`.
    """
    kept = b""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        chunk = os.read(stream.fileno(), 1 << 16)
        if not chunk:
            return kept
        kept += chunk[: keep - len(kept)]


def run_ffmpeg(
    arguments: list[str],
    deadline_s: float,
    stdin: bytes | None = None,
    pass_fds: Sequence[int] = (),
    max_memory: int = resource.RLIM_INFINITY,
    max_written: int = resource.RLIM_INFINITY,
) -> bytes:
    """Run `ffmpeg ARGUMENTS` and return its standard output.

    It inherits the descriptors `pass_fds` under their numbers. It is killed at the deadline, when it writes more than
    `max_written` bytes to its output or to one file, and when this process dies; memory beyond `max_memory` bytes of
    address space is refused to it, which it reports as an error.

    Raises:
        FfmpegError: it exited with an error.
        FfmpegTimeout: it ran longer than `deadline_s` seconds.
        FfmpegFlood: it wrote more than `max_written` bytes.
    """
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", "-loglevel", "error", *arguments]
    deadline = time.monotonic() + deadline_s
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(memory_file())
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
        try:
            said = _drain(process.stderr, STDERR_BYTES_KEPT, deadline)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise FfmpegTimeout(f"no end after {deadline_s:g} s") from error
        if status == -signal.SIGXFSZ:
            raise FfmpegFlood(f"more than {max_written} bytes of output")
        if status != 0:
            raise FfmpegError(said.decode(errors="replace").strip() or f"exit status {status}")
        output.seek(0)
        return output.read()


@functools.cache
def ffmpeg_version() -> str:
    """The version that ffmpeg states."""
    return run_ffmpeg(["-version"], deadline_s=60).decode(errors="replace").split()[2]
