"""`make bench-shards`: the shard job against its ffmpeg commands alone, and against the usual recipes.

Clips, with as many processes as the job has workers: (a) the same ffmpeg commands without output; (b) ffmpeg to JPEG
files, then tar. Images: (c) `tar` of the same files, and (d) webdataset's writer in one process, against the job with
one worker; all synced to disk. All are timed in turn, `--rounds` times, and compared by their medians; Ray's start-up
is reported separately.
"""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import ClassVar

import numpy as np
import webdataset
from PIL import Image
from pydantic import Field

from benchmarks.result import report
from pipeline.settings import COUNT_LIMIT, Command, UserError, run_command
from pipeline.shards.__main__ import main as run_shards
from pipeline.shards.command import ShardsCommand
from pipeline.shards.ffmpeg import ffmpeg_path, run_ffmpeg
from pipeline.shards.frames import ffmpeg_arguments
from pipeline.shards.media import Media, media_of
from pipeline.spec import ClipSettings, FrameSettings

WORKERS = 2
START_UP = "Ray's start-up"


class ShardsBenchmark(Command):
    """Measure the shard job: clips and images a second, against bare ffmpeg, ffmpeg to files, and plain tar."""

    program: ClassVar[str] = "python -m benchmarks.shards"

    clips: Path | None = None
    """Folder of clips; default: synthetic ones."""
    images: Path | None = None
    """Folder of JPEGs; default: synthetic ones."""
    clip_inputs: int = Field(216, ge=1, le=COUNT_LIMIT)
    """Clips in a run; those of the folder are repeated as needed."""
    image_inputs: int = Field(20000, ge=1, le=COUNT_LIMIT)
    """Images in a run, likewise."""
    rounds: int = Field(2, ge=1, le=COUNT_LIMIT)
    """How often each is timed."""
    out: Path = Path("benchmarks/results/shards.json")
    """Result file."""


def make_clips(folder: Path) -> None:
    """Twelve H.264 clips of 340 x 256 pixels and 10 s, the usual size of Kinetics."""
    folder.mkdir(parents=True)
    for number in range(12):
        picture = f"testsrc2=s=340x256:r=30:d=10,hue=h={30 * number},noise=alls=12:allf=t:all_seed={number}"
        output = ["-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p", str(folder / f"clip{number}.mp4")]
        run_ffmpeg(["-f", "lavfi", "-i", picture, *output], deadline_s=120)


def make_images(folder: Path) -> None:
    """Forty JPEGs of 500 x 375 pixels and about 110 kB, the usual size of ImageNet."""
    folder.mkdir(parents=True)
    for number in range(40):
        random = np.random.default_rng(number)
        blocks = random.integers(0, 256, (24, 32, 3), np.uint8).repeat(16, 0).repeat(16, 1)[:375, :500]
        noise = random.normal(0, 12, blocks.shape)
        Image.fromarray(np.clip(blocks + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=88)


def spread(folder: Path, media: Media, count: int, target: Path) -> list[Path]:
    """`count` links below `target` to the files of `folder`, each with its own name."""
    files = sorted(path for path in folder.rglob("*") if media_of(path.name) == media)
    if not files:
        raise UserError(f"{folder} holds no {media}")
    links = []
    for number, file in zip(range(count), itertools.cycle(files), strict=False):
        link = target / f"class{number % 10}" / f"{number:06d}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
        links.append(link)
    return links


def in_parallel(work: Callable[[Path], None], paths: list[Path], threads: int = WORKERS) -> float:
    """Seconds of `work` on all paths in so many threads."""
    started = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, paths))
    return perf_counter() - started


def bare_ffmpeg(clip: Path, encode: bool = True) -> None:
    """The job's ffmpeg command without output; without `encode` the decoded frames are not encoded either."""
    arguments = ffmpeg_arguments(f"file:{clip}", os.devnull, FrameSettings())
    if not encode:
        arguments = [{"image2pipe": "null", "mjpeg": "rawvideo"}.get(value, value) for value in arguments]
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", "-loglevel", "quiet", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def files_then_tar(clips: list[Path], folder: Path) -> float:
    """Seconds of the usual recipe for clips: ffmpeg writes JPEG files, then tar packs them."""

    def cut(clip: Path) -> None:
        frames = folder / clip.stem
        frames.mkdir(parents=True)
        scale = "fps=2,scale='if(gt(iw,ih),-2,256)':'if(gt(iw,ih),256,-2)'"
        command = [ffmpeg_path(), "-nostdin", "-loglevel", "quiet", "-i", str(clip), "-vf", scale, "-q:v", "2"]
        subprocess.run([*command, str(frames / "%05d.jpg")], stdin=subprocess.DEVNULL)

    seconds = in_parallel(cut, clips)
    return seconds + plain_tar(folder, folder.with_suffix(".tar"))


def plain_tar(folder: Path, target: Path) -> float:
    """Seconds of `tar`, synced to disk."""
    started = perf_counter()
    subprocess.run(["tar", "chf", str(target), "-C", str(folder), "."], check=True)
    subprocess.run(["sync", str(target)], check=True)
    return perf_counter() - started


def webdataset_writer(images: list[Path], target: Path) -> float:
    """Seconds of the usual recipe for images: webdataset's writer in one process, which checks nothing."""
    started = perf_counter()
    with webdataset.TarWriter(str(target)) as writer:
        for number, image in enumerate(images):
            writer.write({"__key__": f"{number:08d}", "jpg": image.read_bytes(), "cls": number, "json": {}})
    subprocess.run(["sync", str(target)], check=True)
    return perf_counter() - started


def job(data: Path, out: Path, workers: int, clips: ClipSettings | None = None) -> dict[str, float]:
    """Seconds of the shard job: running, within tasks, by stage, and starting up."""
    cut = clips or ClipSettings()
    run_shards(ShardsCommand(data=str(data), out=str(out), workers=workers, max_reject_fraction=1, clips=cut))
    record = json.loads((out / "job.json").read_text())
    shutil.rmtree(out)
    running, tasks = record["seconds_running"], record["task_seconds"] / workers
    return {"running": running, "tasks": tasks, START_UP: record["seconds"] - running, **record["stage_seconds"]}


def main(command: ShardsBenchmark) -> None:
    """Measure, print and write."""
    times: dict[str, list[float]] = {}
    stages: dict[str, dict[str, float]] = {}

    def note(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(seconds)
        print(f"{name}: {seconds:.2f} s", flush=True)

    with tempfile.TemporaryDirectory(dir=command.out.parent if command.out.parent.is_dir() else None) as scratch:
        root = Path(scratch)
        clip_folder, image_folder = command.clips or root / "made-clips", command.images or root / "made-images"
        if command.clips is None:
            make_clips(clip_folder)
        if command.images is None:
            make_images(image_folder)
        clips = spread(clip_folder, "clips", command.clip_inputs, root / "clips")
        images = spread(image_folder, "images", command.image_inputs, root / "images")
        for path in (*clips, *images):
            path.read_bytes()  # cached in memory for all
        for number in range(command.rounds):
            note("bare ffmpeg", in_parallel(bare_ffmpeg, clips))
            note("bare ffmpeg, 1 process", in_parallel(bare_ffmpeg, clips, threads=1))
            note("bare ffmpeg without encoding", in_parallel(partial(bare_ffmpeg, encode=False), clips))
            for workers in (WORKERS, 1):
                stages["clips"] = job(root / "clips", root / f"clips-{workers}-{number}", workers)
                note(f"clip job, {workers} workers", stages["clips"]["running"])
                note(f"clip job, {workers} workers, within tasks", stages["clips"]["tasks"])
            note(START_UP, stages["clips"][START_UP])
            note("ffmpeg to files, then tar", files_then_tar(clips, root / f"files-{number}"))
            note("plain tar of images", plain_tar(root / "images", root / f"images-{number}.tar"))
            note("webdataset's writer", webdataset_writer(images, root / f"webdataset-{number}.tar"))
            for workers in (WORKERS, 1):
                stages["images"] = job(root / "images", root / f"images-{workers}-{number}", workers)
                note(f"image job, {workers} workers", stages["images"]["running"])
    seconds = {name: median(values) for name, values in times.items()}
    bare, image_job, one_image = (
        seconds[name] for name in ("bare ffmpeg", "image job, 2 workers", "image job, 1 workers")
    )
    clip_job, in_tasks = seconds["clip job, 2 workers"], seconds["clip job, 2 workers, within tasks"]
    ratios = {
        "clip job against bare ffmpeg": bare / clip_job,
        "the same within tasks, without start, gaps and end": bare / in_tasks,
        "clip job against ffmpeg to files, then tar": seconds["ffmpeg to files, then tar"] / clip_job,
        "clip job, 2 workers against 1": seconds["clip job, 1 workers"] / clip_job,
        "bare ffmpeg, 2 processes against 1": seconds["bare ffmpeg, 1 process"] / bare,
        "image job, 2 workers against 1": one_image / image_job,
        "image job against plain tar": seconds["plain tar of images"] / image_job,
        "image job, 1 worker, against webdataset's writer": seconds["webdataset's writer"] / one_image,
    }
    source = "given folders" if command.clips or command.images else "made by the benchmark"
    figures = {"clips": len(clips), "images": len(images), "source": source}
    rows = [(name, f"{value:.2f}x") for name, value in ratios.items()]
    rows += [
        ("share of encoding in ffmpeg", f"{1 - seconds['bare ffmpeg without encoding'] / bare:.0%}"),
        ("clips/s", f"{len(clips) / clip_job:.1f} with {WORKERS} workers"),
        ("images/s", f"{len(images) / image_job:.0f} with {WORKERS} workers"),
        (START_UP, f"{seconds[START_UP]:.1f} s"),
    ]
    for kind, spent in stages.items():
        shown = {stage: value for stage, value in spent.items() if stage not in ("running", "tasks", START_UP)}
        rows.append((f"{kind}: time by stage", ", ".join(f"{stage} {value:.1f} s" for stage, value in shown.items())))
    figures |= {"seconds": times, "ratios": ratios, "stage_seconds": stages}
    report(command.out, figures, rows, "Shards (more is better)")


if __name__ == "__main__":
    run_command(ShardsBenchmark, main)
