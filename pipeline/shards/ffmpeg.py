"""Run ffmpeg as a child process that cannot hang, flood or outlive us."""

import ctypes
import functools
import shutil
import signal
import subprocess

import imageio_ffmpeg

STDERR_BYTES_KEPT = 2000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class FfmpegError(Exception):
    """ffmpeg failed; the message holds the end of what it said."""


class FfmpegTimeout(FfmpegError):  # noqa: N818
    """ffmpeg was killed at its deadline."""


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg on PATH, else the binary of the imageio-ffmpeg wheel."""
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run_ffmpeg(arguments: list[str], deadline_s: float, stdin: bytes | None = None) -> bytes:
    """Run `ffmpeg ARGUMENTS` and return its standard output.

    Both pipes are drained while it runs. It is killed at the deadline, and by the kernel if this process dies.

    Raises:
        FfmpegError: it exited with an error.
        FfmpegTimeout: it ran longer than `deadline_s` seconds.
    """
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", "-loglevel", "error", *arguments]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=deadline_s,
            preexec_fn=_die_with_parent,
        )
    except subprocess.TimeoutExpired as error:
        raise FfmpegTimeout(f"no end after {deadline_s:g} s") from error
    if done.returncode != 0:
        said = done.stderr[-STDERR_BYTES_KEPT:].decode(errors="replace").strip()
        raise FfmpegError(said or f"exit status {done.returncode}")
    return done.stdout


@functools.cache
def ffmpeg_version() -> str:
    """The version that ffmpeg states."""
    said = subprocess.run([ffmpeg_path(), "-version"], capture_output=True, text=True, check=True).stdout
    return said.split()[2]
