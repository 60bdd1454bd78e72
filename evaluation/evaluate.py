"""Runs a task: clips through the network and the propagation, with decoding, scoring and writing in the background."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.backbones import Extractor
from evaluation.background import map_ahead
from evaluation.fingerprints import fingerprint
from evaluation.frames import network_input, read_frame
from evaluation.propagation import propagate
from evaluation.task import Array, Clip, SequenceResult, Task, frame_name
from pipeline.files import atomic_path
from pipeline.settings import UserError

Results = dict[str, SequenceResult]


@contextmanager
def worker_threads(count: int) -> Iterator[Executor]:
    """A pool of threads whose waiting work is dropped when the body fails."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def propagated(
    task: Task[Any], clip: Clip, extractor: Extractor, pool: Executor, batch_size: int
) -> Iterator[tuple[int, Array]]:
    """The prediction for each frame of a clip, with its number; frames are decoded ahead, and only a few are held.

    Raises:
        UserError: a frame cannot be read.
    """
    size = task.network_size(clip)
    labels = task.first_labels(clip, extractor.grid(size))
    images = map_ahead(
        pool,
        lambda frame: network_input(read_frame(frame.path, frame.orientation), size),
        clip.frames,
        2 * batch_size,
    )
    features = extractor.stream(images, batch_size)
    for number, soft in enumerate(propagate(features, labels, task.propagation)):
        yield number, task.predict(clip, soft)


def stored(task: Task[Any], clip: Clip, folder: Path) -> Iterator[tuple[int, Array]]:
    """The predictions in a folder for the frames that have a truth, with their numbers.

    Raises:
        UserError: one is missing or does not fit.
    """
    for number in range(len(clip.frames)):
        path = folder / f"{frame_name(clip, number)}{task.suffix}"
        if task.is_scored(clip, number):
            yield number, task.load(path, clip)


def judge(
    task: Task[Any],
    clip: Clip,
    predictions: Iterable[tuple[int, Array]],
    pool: Executor,
    folder: Path | None,
    progress: "tqdm[Any]",
) -> SequenceResult:
    """Score predictions as they come, and write them to `folder` if there is one.

    Raises:
        UserError: an annotation cannot be read, or what gives the predictions fails.
    """

    def finish(numbered: tuple[int, Array]) -> tuple[int, Any, Any]:
        number, prediction = numbered
        if folder is not None:
            task.save(folder / f"{frame_name(clip, number)}{task.suffix}", prediction)
        truth = task.truth(clip, number) if task.is_scored(clip, number) else None
        if truth is None:
            return number, None, None
        return number, task.compare(clip, truth, prediction), task.observe(truth, prediction)

    judged, observed = {}, {}
    for number, judgment, observation in map_ahead(pool, finish, predictions, 8):
        if judgment is not None:
            judged[number], observed[number] = judgment, observation
        progress.update()
    result = task.result(clip, judged)
    return replace(result, notes=[*clip.notes, *task.notes(clip, observed), *result.notes])


def open_clips(task: Task[Any], names: Iterable[str]) -> dict[str, Clip | SequenceResult]:
    """Each sequence's clip, or the failure to open it."""
    opened: dict[str, Clip | SequenceResult] = {}
    for name in names:
        try:
            opened[name] = task.open(name)
        except UserError as error:
            opened[name] = SequenceResult("failed", str(error))
    return opened


def evaluate_clips(
    task: Task[Any],
    opened: Mapping[str, Clip | SequenceResult],
    source: "Extractor | Path",
    *,
    batch_size: int,
    workers: int,
    out: Path | None,
    label: str = "",
    quiet: bool = False,
) -> Results:
    """Score every clip by propagation with an extractor, or score the predictions in a folder.

    A sequence that fails does not stop the others. `out` gets a folder of predictions for each finished sequence.
    """
    results: Results = {}
    total = sum(len(clip.frames) for clip in opened.values() if isinstance(clip, Clip))
    with worker_threads(workers) as pool, tqdm(total=total, unit="frame", disable=quiet, smoothing=0.05) as progress:
        for name, clip in opened.items():
            if isinstance(clip, SequenceResult):
                results[name] = clip
                continue
            progress.set_description(f"{label} {name}".strip())
            before = progress.n
            try:
                results[name] = _evaluate_clip(task, clip, source, pool, batch_size, out, progress)
            except UserError as error:
                results[name] = SequenceResult("failed", str(error), frames=len(clip.frames), notes=clip.notes)
            progress.update(before + len(clip.frames) - progress.n)
    return results


def _evaluate_clip(
    task: Task[Any],
    clip: Clip,
    source: "Extractor | Path",
    pool: Executor,
    batch_size: int,
    out: Path | None,
    progress: "tqdm[Any]",
) -> SequenceResult:
    if isinstance(source, Path):
        return judge(task, clip, stored(task, clip, source / clip.name), pool, None, progress)
    predictions = propagated(task, clip, source, pool, batch_size)
    if out is None:
        return judge(task, clip, predictions, pool, None, progress)
    with atomic_path(out / clip.name) as folder:
        folder.mkdir(parents=True)
        return judge(task, clip, predictions, pool, folder, progress)


def clip_hashes(task: Task[Any], data: Path, opened: Mapping[str, Clip | SequenceResult]) -> dict[str, str]:
    """Hash of the frames and annotations of each clip whose files can all be read."""
    hashes = {}
    for name, clip in opened.items():
        if isinstance(clip, Clip):
            with suppress(UserError):  # scoring the clip says which file it is
                hashes[name] = fingerprint(data, [*(frame.path for frame in clip.frames), *task.annotation_files(clip)])
    return hashes


def summarize(task: Task[Any], results: Results) -> dict[str, Any]:
    """The task's summary of the scored sequences; `scores` is None if there are none."""
    scored = [result for result in results.values() if result.status == "scored"]
    return task.summary(scored) if scored else {"scores": None}


def mean_over_time(results: Results, points: int = 20) -> list[float]:
    """Mean score (points,) over the scored sequences against the share of the sequence that has passed."""
    grid = np.linspace(0, 1, points)
    courses = [np.array([*result.over_time.values()], float) for result in results.values()]
    known = [course[np.isfinite(course)] for course in courses]
    curves = [np.interp(grid, np.linspace(0, 1, len(course)), course) for course in known if len(course) > 1]
    return [float(value) for value in np.mean(curves, 0)] if curves else []
