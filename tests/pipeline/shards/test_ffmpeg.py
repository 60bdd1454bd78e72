import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.shards.ffmpeg import (
    STDERR_BYTES_KEPT,
    FfmpegError,
    FfmpegFlood,
    FfmpegTimeout,
    memory_file,
    run_ffmpeg,
)

ENDLESS = ["-re", "-f", "lavfi", "-i", "testsrc", "-f", "null", "-"]


def test_output_is_returned() -> None:
    jpeg = run_ffmpeg(["-f", "lavfi", "-i", "testsrc", "-frames:v", "1", "-f", "mjpeg", "pipe:"], 30)
    assert jpeg.startswith(b"\xff\xd8")
    assert jpeg.endswith(b"\xff\xd9")


def test_input_and_descriptors_are_passed() -> None:
    raw = os.urandom(16 * 16 * 3)
    arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "16x16", "-i", "pipe:", "-f", "rawvideo"]
    with memory_file() as copy:
        number = copy.fileno()
        assert run_ffmpeg([*arguments, "pipe:", *arguments[-2:], f"pipe:{number}"], 30, raw, pass_fds=[number]) == raw
        copy.seek(0)
        assert copy.read() == raw


def test_deadline_kills() -> None:
    started = time.monotonic()
    with pytest.raises(FfmpegTimeout, match=r"no end after 0\.5 s"):
        run_ffmpeg(ENDLESS, 0.5)
    assert time.monotonic() - started < 5


def test_endless_messages_are_drained_until_the_deadline() -> None:
    with pytest.raises(FfmpegTimeout):
        run_ffmpeg(["-loglevel", "trace", *ENDLESS[1:]], 1.0)


def test_flood_of_messages_is_cut() -> None:
    talkative = ["-loglevel", "trace", "-f", "lavfi", "-i", "testsrc=d=5", "-f", "rawvideo", "-y", "/dev/full"]
    with pytest.raises(FfmpegError) as error:
        run_ffmpeg(talkative, 30)
    assert STDERR_BYTES_KEPT // 2 < len(str(error.value)) <= STDERR_BYTES_KEPT


def test_flood_of_output_is_stopped(tmp_path: Path) -> None:
    endless = [*ENDLESS[1:5], "-f", "rawvideo"]
    with pytest.raises(FfmpegFlood, match="more than 1048576 bytes"):
        run_ffmpeg([*endless, "pipe:"], 60, max_written=1 << 20)
    with pytest.raises(FfmpegFlood, match="more than 1048576 bytes"):
        run_ffmpeg([*endless, f"file:{tmp_path / 'out'}"], 60, max_written=1 << 20)
    assert (tmp_path / "out").stat().st_size <= 1 << 20


def test_memory_is_limited() -> None:
    large = ["-f", "lavfi", "-i", "color=s=8000x8000:r=1", "-frames:v", "1", "-f", "null", "-"]
    run_ffmpeg(large, 60)
    with pytest.raises(FfmpegError):
        run_ffmpeg(large, 60, max_memory=64 << 20)


UNDER_LIMITS = """
import resource
from pipeline.settings import UserError
from pipeline.shards.ffmpeg import FfmpegError, run_ffmpeg
large = ["-f", "lavfi", "-i", "color=s=8000x8000:r=1", "-frames:v", "1", "-f", "rawvideo", "pipe:"]
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
assert len(run_ffmpeg(large, 60, max_memory=16 << 30, max_written=2 << 30)) == 96_000_000
for limit, value in ((resource.RLIMIT_FSIZE, 1 << 20), (resource.RLIMIT_AS, 300 << 20)):
    resource.setrlimit(limit, (value, value))
    try:
        run_ffmpeg(large, 60, max_memory=16 << 30, max_written=2 << 30)
    except UserError as error:
        print(error)
try:
    run_ffmpeg(large, 60, max_memory=200 << 20, max_written=1 << 10)
except FfmpegError:
    print("ours")
"""


def test_limits_of_the_user_are_kept_and_named() -> None:
    run = subprocess.run([sys.executable, "-c", UNDER_LIMITS], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "ffmpeg wrote more than `ulimit -f 1024` allows: raise that limit",
        "ffmpeg needs more memory than `ulimit -v 307200` allows: raise that limit, to 4194304 for 8K clips",
        "ours",
    ]


def test_the_log_can_be_watched_and_an_exception_ends_ffmpeg() -> None:
    lines: list[bytes] = []
    short = ["-f", "lavfi", "-i", "testsrc=d=1", "-f", "null", "-"]
    assert run_ffmpeg(short, 30, watch=lines.append) == b""
    assert any(b"Stream #0:0 -> #0:0" in line for line in lines)

    def enough(line: bytes) -> None:
        if b"Stream mapping" in line:
            raise StopAsyncIteration

    started = time.monotonic()
    with pytest.raises(StopAsyncIteration):
        run_ffmpeg(ENDLESS, 60, watch=enough)
    assert time.monotonic() - started < 20
    with pytest.raises(FfmpegError, match=r"^\[in#0 @ \w+\] \[error\] Error opening input: No such file"):
        run_ffmpeg(["-i", "file:/missing", "-f", "null", "-"], 30, watch=lines.append)


def test_ffmpeg_dies_with_its_parent() -> None:
    program = f"from pipeline.shards.ffmpeg import run_ffmpeg; run_ffmpeg({ENDLESS!r}, 600)"
    parent = subprocess.Popen([sys.executable, "-c", program])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 20
    while not children.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(children.read_text().split()[0])
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    while state(child) != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state(child) == "Z"


def state(process: int) -> str:
    """State of a process as the kernel's letter; Z if it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
