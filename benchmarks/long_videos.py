"""`python -m benchmarks.long_videos`: long videos that the shard job cuts into windows of ten seconds.

Throughput: the job against ffmpeg commands for the same frames without output, with as many processes; timed in turn,
`--rounds` times, and compared by their medians, Ray's start-up not included; and by the CPU time of a job without Ray,
which a busy machine changes less. Memory: peak of a job without Ray on a video of ten minutes and on one of two hours.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import ClassVar

from pydantic import Field

from benchmarks.result import report
from benchmarks.shards import WORKERS, in_parallel, job
from pipeline.settings import COUNT_LIMIT, Command, run_command
from pipeline.shards.__main__ import main as run_shards
from pipeline.shards.command import ShardsCommand
from pipeline.shards.ffmpeg import ffmpeg_path, run_ffmpeg
from pipeline.shards.frames import ffmpeg_arguments
from pipeline.spec import ClipSettings, FrameSettings

WINDOWS = ClipSettings(length=10)
MEMORY_MINUTES = (10, 120)


class LongVideosBenchmark(Command):
    """Measure the shard job on long videos: windows a second against bare ffmpeg, and memory by length."""

    program: ClassVar[str] = "python -m benchmarks.long_videos"

    videos: int = Field(2, ge=1, le=COUNT_LIMIT)
    """Number of videos, of 640 x 360 pixels at 25 pictures a second."""
    minutes: int = Field(5, ge=1, le=COUNT_LIMIT)
    """Length of each."""
    rounds: int = Field(2, ge=1, le=COUNT_LIMIT)
    """How often each is timed."""
    out: Path = Path("benchmarks/results/long_videos.json")
    """Result file."""


def make_video(path: Path, minutes: int, size: str, fps: int) -> Path:
    """An H.264 video; one minute is encoded and repeated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    minute = path.with_name("minute.mkv")
    picture = f"testsrc2=s={size}:r={fps}:d=60,noise=alls=8:allf=t:all_seed=1"
    run_ffmpeg(
        [
            "-f",
            "lavfi",
            "-i",
            picture,
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-pix_fmt",
            "yuv420p",
            f"file:{minute}",
        ],
        600,
    )
    run_ffmpeg(["-stream_loop", str(minutes - 1), "-i", f"file:{minute}", "-c", "copy", f"file:{path}"], 600)
    minute.unlink()
    return path


def bare_ffmpeg(video: Path) -> None:
    """The command for all frames at the rate of the job, without output."""
    arguments = ffmpeg_arguments(f"file:{video}", os.devnull, FrameSettings(max_frames=1_000_000))
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", "-loglevel", "quiet", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def print_cost(data: str, out: str) -> None:
    """Run a job in this process, and print its peak memory in MB and its CPU seconds, those of ffmpeg included."""
    before = cpu_s()
    run_shards(ShardsCommand(data=data, out=out, workers=0, clips=WINDOWS))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, cpu_s() - before)


def cost(data: Path, out: Path) -> tuple[int, float]:
    """Peak memory in MB and CPU seconds of a job in a process of its own."""
    program = "import sys; from benchmarks.long_videos import print_cost; print_cost(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(data), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    peak, seconds = done.stdout.splitlines()[-1].split()
    return int(peak), float(seconds)


def main(command: LongVideosBenchmark) -> None:
    """Measure, print and write."""
    times: dict[str, list[float]] = {"bare ffmpeg": [], "job": []}
    with tempfile.TemporaryDirectory(dir=command.out.parent if command.out.parent.is_dir() else None) as scratch:
        root = Path(scratch)
        first = make_video(root / "videos" / "0.mkv", command.minutes, "640x360", 25)
        videos = [first, *(first.with_name(f"{number}.mkv") for number in range(1, command.videos))]
        for video in videos[1:]:
            video.hardlink_to(first)
        first.read_bytes()  # cached in memory for all
        before = cpu_s()
        in_parallel(bare_ffmpeg, videos)
        bare_cpu_s, (_, job_cpu_s) = cpu_s() - before, cost(root / "videos", root / "cpu")
        for number in range(command.rounds):
            times["bare ffmpeg"].append(in_parallel(bare_ffmpeg, videos))
            times["job"].append(job(root / "videos", root / str(number), WORKERS, clips=WINDOWS)["running"])
            print(", ".join(f"{name}: {values[-1]:.2f} s" for name, values in times.items()), flush=True)
        peaks = {}
        for minutes in MEMORY_MINUTES:
            data = make_video(root / f"{minutes} minutes" / "a.mkv", minutes, "160x96", 10).parent
            peaks[minutes], _ = cost(data, root / f"out {minutes}")
    bare, cut = (median(times[name]) for name in ("bare ffmpeg", "job"))
    windows = command.videos * command.minutes * 6
    rows = [
        ("job against bare ffmpeg", f"{bare / cut:.2f}x"),
        ("the same by CPU time, without Ray", f"{bare_cpu_s / job_cpu_s:.2f}x"),
        ("windows/s", f"{windows / cut:.1f} with {WORKERS} workers"),
        *((f"peak memory, {minutes} minutes", f"{peak} MB") for minutes, peak in peaks.items()),
    ]
    cpu = {"bare ffmpeg": bare_cpu_s, "job": job_cpu_s}
    figures = {"seconds": times, "cpu_seconds": cpu, "ratio": bare / cut, "windows": windows, "peak_mb": peaks}
    report(command.out, figures, rows, "Long videos (more is better)")


if __name__ == "__main__":
    run_command(LongVideosBenchmark, main)
