"""The jobs of a demo dataset and the processes that do them; jobs that are done are not repeated."""

import multiprocessing
import os
import platform
import signal
import string
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from pydantic import Field
from tqdm import tqdm

from benchmarks.demo_data import casting, trees
from pipeline.differences import differences
from pipeline.files import TEMPORARY_PREFIX, as_json, remove, write_bytes
from pipeline.reading import read_json
from pipeline.settings import COUNT_LIMIT, Seed, Settings, UserError
from pipeline.shards.ffmpeg import FfmpegError
from pipeline.shards.versions import writer_versions

GENERATOR_VERSION = 1
"""Raise it when the same settings give other data."""
RECORD = "demo_data.json"
"""What the dataset is made from and with; written first."""

CLIP_SIZES = ((340, 256), (340, 256), (340, 256), (320, 240), (426, 240), (256, 340))
FRAME_RATES = (15, 15, 20)
YOUTUBE_ALPHABET = string.ascii_letters + string.digits + "_-"
_CLIP, _IMAGE, _DAVIS, _VIP, _JHMDB = range(5)  # streams of random numbers


class DemoSettings(Settings):
    """Size of a demo dataset."""

    seed: Seed = 0
    """Determines every picture."""
    clips: int = Field(48, ge=1, le=COUNT_LIMIT)
    """Training clips, divided among 6 classes."""
    images_per_class: int = Field(12, ge=1, le=COUNT_LIMIT)
    """Images of each of the 8 classes."""
    sequences: int = Field(4, ge=1, le=COUNT_LIMIT)
    """Held-out DAVIS sequences; half as many are made for VIP and for JHMDB."""


@dataclass(frozen=True)
class Job:
    """One call in a worker process; `last_file` is written last, so if it exists the job is done."""

    last_file: Path
    function: Callable[..., None]
    arguments: tuple[Any, ...]


def make_clip(path: Path, seed: list[int], class_name: str, encoder: str) -> None:
    """A training clip of 4 to 10 s."""
    rng = np.random.default_rng(seed)
    size = CLIP_SIZES[rng.integers(len(CLIP_SIZES))]
    duration = round(float(rng.triangular(4, 4.5, 10)), 1)
    scene = casting.video_scene(rng, class_name, size, duration)
    trees.write_video(path, scene, FRAME_RATES[rng.integers(len(FRAME_RATES))], duration, encoder)


def make_image(path: Path, seed: list[int], family: str) -> None:
    """A still image of a class."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(300, 400)), int(rng.integers(250, 320)))
    scene = casting.image_scene(rng, family, size if rng.random() < 0.75 else size[::-1])
    trees.write_still(path, scene, float(rng.uniform(0, 10)))


def make_davis(root: Path, name: str, seed: list[int], number: int) -> None:
    """A held-out sequence with object masks."""
    trees.write_davis(root, name, casting.davis_scene(seed, number), casting.HELD_OUT_TIMES)


def make_vip(root: Path, name: str, seed: list[int]) -> None:
    """A held-out clip of two people with part labels."""
    trees.write_vip(root, name, casting.pose_scene(seed, casting.walk, 2), casting.HELD_OUT_TIMES)


def make_jhmdb(root: Path, class_name: str, name: str, seed: list[int]) -> None:
    """A held-out clip of one person with joints."""
    scene = casting.pose_scene(seed, casting.POSE_MOVES[class_name], 1)
    trees.write_jhmdb(root, class_name, name, scene, casting.HELD_OUT_TIMES, casting.PERSON_SHARE)


def clip_id(rng: np.random.Generator, number: int) -> str:
    """An 11-character id as on YouTube; every eighth begins with `-`."""
    characters = [YOUTUBE_ALPHABET[i] for i in rng.integers(0, len(YOUTUBE_ALPHABET), 11)]
    return "".join(["-", *characters[1:]] if number % 8 == 3 else characters)


def _clip_jobs(settings: DemoSettings, root: Path, encoder: str) -> Iterator[Job]:
    names = list(casting.VIDEO_CLASSES)
    for number in range(settings.clips):
        seed = [settings.seed, _CLIP, number]
        rng = np.random.default_rng([*seed, 0])
        start = int(rng.integers(0, 290))
        class_name = names[number % len(names)]
        path = root / class_name / f"{clip_id(rng, number)}_{start:06d}_{start + 10:06d}.mp4"
        yield Job(path, make_clip, (path, seed, class_name, encoder))


def _image_jobs(settings: DemoSettings, root: Path) -> Iterator[Job]:
    for label, (wnid, family) in enumerate(casting.IMAGE_CLASSES.items()):
        for number in range(settings.images_per_class):
            path = root / wnid / f"{wnid}_{number}.JPEG"
            yield Job(path, make_image, (path, [settings.seed, _IMAGE, label, number], family))


def _davis_names(settings: DemoSettings) -> list[str]:
    families = [casting.DAVIS_CASTS[n % len(casting.DAVIS_CASTS)][0] for n in range(settings.sequences)]
    return [f"{family}-{number:02d}" for number, family in enumerate(families)]


def _vip_names(settings: DemoSettings) -> list[str]:
    return [f"videos{number}" for number in range(1, max(1, settings.sequences // 2) + 1)]


def _jhmdb_names(settings: DemoSettings) -> list[tuple[str, str]]:
    """(class, video) pairs."""
    classes = list(casting.POSE_MOVES)
    count = max(1, settings.sequences // 2)
    return [(classes[n % len(classes)], f"demo_{classes[n % len(classes)]}_{n:02d}") for n in range(count)]


def _held_out_jobs(settings: DemoSettings, out: Path) -> Iterator[Job]:
    davis, vip, jhmdb = out / "davis", out / "vip", out / "jhmdb"
    for number, name in enumerate(_davis_names(settings)):
        last = davis / "Annotations/480p" / name / f"{len(casting.HELD_OUT_TIMES) - 1:05d}.png"
        yield Job(last, make_davis, (davis, name, [settings.seed, _DAVIS, number], number))
    for number, name in enumerate(_vip_names(settings)):
        last = vip / "Category_ids" / name / f"{len(casting.HELD_OUT_TIMES):012d}.png"
        yield Job(last, make_vip, (vip, name, [settings.seed, _VIP, number]))
    for number, (class_name, name) in enumerate(_jhmdb_names(settings)):
        last = jhmdb / "joint_positions" / class_name / name / "joint_positions.mat"
        yield Job(last, make_jhmdb, (jhmdb, class_name, name, [settings.seed, _JHMDB, number]))


def _write_lists(settings: DemoSettings, out: Path) -> None:
    """The lists of held-out clips that the real datasets bring along."""
    lists = {
        "davis/ImageSets/2017/val.txt": _davis_names(settings),
        "vip/lists/val_videos.txt": _vip_names(settings),
    }
    for class_name, name in _jhmdb_names(settings):  # 2: belongs to the test set
        lists.setdefault(f"jhmdb/splits/{class_name}_test_split1.txt", []).append(f"{name}.avi 2")
    for path, lines in lists.items():
        write_bytes(out / path, "".join(f"{line}\n" for line in lines).encode())


_stopped = threading.Event()
"""Set in a worker process that is to end: the pool may have queued another job for it."""


def _stop_worker(*_: object) -> NoReturn:
    _stopped.set()
    sys.exit(1)  # an exception, so that temporary files and ffmpeg go away


def _start_worker() -> None:
    signal.signal(signal.SIGTERM, _stop_worker)


def _do(job: Job) -> None:
    if not _stopped.is_set():
        job.function(*job.arguments)


def _run_jobs(jobs: list[Job], workers: int) -> None:
    """Do the jobs in `workers` processes. When interrupted, or when a job fails, the workers clean up and end."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker) as pool:
        try:
            # The processes, started here, inherit the blocked signal: Ctrl-C reaches this process alone.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                futures = [pool.submit(_do, job) for job in jobs]
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for future in tqdm(as_completed(futures), "demo data", len(jobs), unit="item", mininterval=0.5):
                future.result()
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _check_folder(out: Path, made_from: dict[str, Any]) -> None:
    """Make sure that `out` is new or holds (the beginning of) this dataset.

    Raises:
        UserError: it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a directory that is empty or does not exist")
    if (out / RECORD).is_file():
        recorded = read_json(out / RECORD, f"Remove {out} or give another directory").get("made_from")
        if difference := differences(recorded or {}, made_from):
            raise UserError(
                f"{out} holds demo data made with other settings: {difference}. Remove it or give another directory"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no demo data; give a directory that is empty or does not exist")


def _make(settings: DemoSettings, out: Path, workers: int) -> bool:
    """Make what is missing; whether anything was."""
    made_from = {"generator": GENERATOR_VERSION, **settings.model_dump()}
    _check_folder(out, made_from)
    encoder = trees.video_encoder()
    jobs = [
        *_clip_jobs(settings, out / "kinetics/train", encoder),
        *_held_out_jobs(settings, out),
        *_image_jobs(settings, out / "imagenet/train"),
    ]
    missing = [job for job in jobs if not job.last_file.exists()]
    if not missing:
        return False
    if not (out / RECORD).exists():
        tools = {"python": platform.python_version(), "numpy": np.__version__, **writer_versions()}
        write_bytes(out / RECORD, as_json({"made_from": made_from, "encoder": encoder, "tools": tools}))
    for leftover in out.rglob(f"{TEMPORARY_PREFIX}*"):
        remove(leftover)
    _write_lists(settings, out)
    _run_jobs(missing, workers)
    return True


def generate(settings: DemoSettings, out: Path, workers: int | None = None) -> str:
    """Make the dataset in `out`, or what is missing of it; the result does not depend on `workers`.

    Args:
        settings: what is made.
        out: a directory that is empty, does not exist, or holds (the beginning of) the same dataset.
        workers: processes; None means one for each core this process may use.

    Returns:
        one line that says what `out` holds.

    Raises:
        UserError: `out` holds something else or cannot be written, ffmpeg fails, or a worker was killed.
    """
    pose_clips = len(_vip_names(settings))
    contents = (
        f"{settings.clips} clips, {settings.images_per_class * len(casting.IMAGE_CLASSES)} images, "
        f"{settings.sequences} DAVIS, {pose_clips} VIP and {pose_clips} JHMDB clips"
    )
    try:
        made = _make(settings, out, workers or len(os.sched_getaffinity(0)))
    except OSError as error:
        raise UserError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    except FfmpegError as error:
        raise UserError(f"ffmpeg failed while encoding demo clips: {error}") from error
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, possibly out of memory; use fewer --workers") from error
    return f"{out}: {contents}" if made else f"{out} is up to date: {contents}"
