import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.shards.ffmpeg import STDERR_BYTES_KEPT, FfmpegError, FfmpegTimeout, run_ffmpeg

ENDLESS = ["-re", "-f", "lavfi", "-i", "testsrc", "-f", "null", "-"]


def test_output_is_returned() -> None:
    jpeg = run_ffmpeg(["-f", "lavfi", "-i", "testsrc", "-frames:v", "1", "-f", "mjpeg", "pipe:"], 30)
    assert jpeg.startswith(b"\xff\xd8")
    assert jpeg.endswith(b"\xff\xd9")


def test_deadline_kills() -> None:
    started = time.monotonic()
    with pytest.raises(FfmpegTimeout, match=r"no end after 0\.5 s"):
        run_ffmpeg(ENDLESS, 0.5)
    assert time.monotonic() - started < 5


def test_flood_of_errors_is_drained_and_cut(tmp_path: Path) -> None:
    noise = tmp_path / "noise.mpg"
    noise.write_bytes(os.urandom(1 << 20))
    with pytest.raises(FfmpegError) as error:
        run_ffmpeg(["-loglevel", "debug", "-f", "mpeg", "-i", f"file:{noise}", "-f", "null", "-", "-xerror"], 30)
    assert 0 < len(str(error.value)) <= STDERR_BYTES_KEPT


def test_ffmpeg_dies_with_its_parent() -> None:
    program = f"from pipeline.shards.ffmpeg import run_ffmpeg; run_ffmpeg({ENDLESS!r}, 600)"
    parent = subprocess.Popen([sys.executable, "-c", program])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 20
    while not children.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(children.read_text().split()[0])
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child}").exists() and "Z" not in state(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists() or "Z" in state(child)


def state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
