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
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO

import imageio_ffmpeg

from pipeline.limits import shown_limit, smaller_limit, user_limit
from pipeline.settings import UserError

STDERR_BYTES_KEPT = 2000
_PAUSE_S = 0.01
_PIPE_BYTES = 1 << 20
"""How much ffmpeg may write ahead; the most that Linux allows without privileges."""
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


class Deadline:
    """The time at which a process is killed, unless it is put off; `paused` time does not count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.put_off()

    def put_off(self) -> None:
        """Give the process its full time again, from now on."""
        self._end = time.monotonic() + self.seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock while the block runs."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - started


def _chunks(
    streams: Sequence[IO[bytes]], deadline: Deadline, pause_s: float = 0.0
) -> Iterator[tuple[IO[bytes], bytes]]:
    """Yield what arrives on any of `streams`, an empty chunk where one ends, until all have ended.

    With a pause, what arrives in `pause_s` seconds is read at once: waking up for each picture takes more time than it.

    Raises:
        TimeoutError: one is still open at the deadline.
    """
    poll = select.poll()
    by_number = {stream.fileno(): stream for stream in streams}
    for number in by_number:
        poll.register(number, select.POLLIN)
    while by_number:
        if pause_s:
            time.sleep(pause_s)
        ready = poll.poll(deadline.left_s * 1000)
        if not ready:
            raise TimeoutError
        for number, _ in ready:
            chunk = os.read(number, 1 << 16)
            stream = by_number[number]
            if not chunk:
                poll.unregister(number)
                del by_number[number]
            yield stream, chunk


class _Log:
    """Passes the lines of ffmpeg's log to `watch`, and keeps the beginning of its error messages."""

    def __init__(self, watch: Callable[[bytes], None] | None) -> None:
        self._watch = watch
        self._rest = b""
        self.message = b""

    def read(self, chunk: bytes) -> None:
        """Read more of the log, of which an empty chunk is the end; long lines are read in parts."""
        *lines, self._rest = (self._rest + chunk).splitlines(keepends=True) or [b""]
        if not chunk or len(self._rest) >= 1 << 16 or self._rest.endswith(b"\n"):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if self._watch is None or _ERROR.match(line):
                self.message += line[: STDERR_BYTES_KEPT - len(self.message)]
            else:
                self._watch(line)


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


@contextlib.contextmanager
def _started(
    arguments: list[str],
    level: list[str],
    stdin: IO[bytes] | int,
    stdout: IO[bytes] | int,
    pass_fds: Sequence[int],
    limits: dict[int, int],
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start ffmpeg with limits on its resources; it is killed at the end of the block and when this process dies."""
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", *level, *arguments]
    with contextlib.ExitStack() as stack:
        lifeline, our_end = os.pipe()
        stack.callback(os.close, our_end)
        try:
            process = stack.enter_context(
                subprocess.Popen(
                    command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, pass_fds=(*pass_fds, lifeline)
                )
            )
            stack.callback(process.kill)
            _bind(process.pid, lifeline, {**limits, resource.RLIMIT_CORE: 0})
        finally:
            os.close(lifeline)
        yield process


_WATCHED = ["-nostats", "-loglevel", "level+info"]


def _check(status: int, message: bytes, max_memory: int, max_written: int) -> None:
    if status != 0:
        _check_user_limits(status, message, max_memory, max_written)
    if status == -signal.SIGXFSZ:
        raise FfmpegFlood(f"more than {max_written} bytes of output")
    if status != 0:
        raise FfmpegError(message.decode(errors="replace").strip() or f"exit status {status}")


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
    level = ["-loglevel", "error"] if watch is None else _WATCHED
    limits = {resource.RLIMIT_AS: max_memory, resource.RLIMIT_FSIZE: max_written}
    deadline, log = Deadline(deadline_s), _Log(watch)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(memory_file()) if stdout is None else stdout
        source = subprocess.DEVNULL if stdin is None else stack.enter_context(memory_file(stdin))
        process = stack.enter_context(_started(arguments, level, source, output, pass_fds, limits))
        assert process.stderr is not None
        try:
            for _, chunk in _chunks([process.stderr], deadline):
                log.read(chunk)
            status = process.wait(deadline.left_s)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise FfmpegTimeout(f"no end after {deadline_s:g} s") from error
        _check(status, log.message, max_memory, max_written)
        if stdout is not None:
            return b""
        output.seek(0)
        return output.read()


def stream_ffmpeg(
    arguments: Callable[[int], list[str]],
    deadline: Deadline,
    pass_fds: Sequence[int],
    max_memory: int,
    watch: Callable[[bytes], None],
) -> Generator[tuple[bytes, bytes], None, None]:
    """Run ffmpeg and yield its standard output, and what it writes to a second pipe, as they arrive.

    `arguments` is called with the descriptor of the second pipe. The time between two steps of the iterator does not
    count towards the deadline, which the caller may put off. Otherwise as `run_ffmpeg`; ffmpeg ends with the iterator.

    Raises:
        FfmpegError, FfmpegTimeout, UserError: as `run_ffmpeg`, after all that was written.
    """
    log = _Log(watch)
    with contextlib.ExitStack() as stack:
        reader, writer = os.pipe()
        second = stack.enter_context(os.fdopen(reader, "rb"))
        try:
            limits = {resource.RLIMIT_AS: max_memory}
            process = stack.enter_context(
                _started(arguments(writer), _WATCHED, subprocess.DEVNULL, subprocess.PIPE, (*pass_fds, writer), limits)
            )
        finally:
            os.close(writer)
        assert process.stdout is not None
        assert process.stderr is not None
        for pipe in (process.stdout, second):
            with contextlib.suppress(OSError):  # the user has many pipes
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            for stream, chunk in _chunks([process.stdout, second, process.stderr], deadline, _PAUSE_S):
                if stream is process.stderr:
                    log.read(chunk)
                else:
                    with deadline.paused():
                        yield (chunk, b"") if stream is process.stdout else (b"", chunk)
            status = process.wait(deadline.left_s)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise FfmpegTimeout(f"no progress in {deadline.seconds:g} s") from error
        _check(status, log.message, max_memory, resource.RLIM_INFINITY)


@functools.cache
def ffmpeg_version() -> str:
    """Version of ffmpeg."""
    return run_ffmpeg(["-version"], deadline_s=60).decode(errors="replace").split()[2]
