"""Scores the clips of a task: predictions come from label propagation or from disk, scoring runs in the background."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.backbones import Extractor
from evaluation.background import map_ahead
from evaluation.benchmark import Array, Clip, LabelPropagation, SequenceResult, Task, frame_name
from evaluation.frames import network_input
from evaluation.sequences import check_sequence_name
from pipeline.files import atomic_path
from pipeline.settings import UserError

Results = dict[str, SequenceResult]
Opened = Mapping[str, Clip | SequenceResult]
"""Each sequence's clip, or the failure to open it."""
Predict = Callable[[Any, Executor], Iterator[tuple[int, Array]]]
"""Yields the predictions for the frames of a clip with their indices; may use threads of the pool."""


@contextmanager
def worker_threads(count: int) -> Iterator[Executor]:
    """A pool of threads that cancels waiting work on exit."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def propagated(propagation: LabelPropagation[Any], extractor: Extractor, batch_size: int) -> Predict:
    """Predictions for every frame by label propagation; frames are decoded ahead, and only a few are in memory."""

    def predict(clip: Clip, pool: Executor) -> Iterator[tuple[int, Array]]:
        size, resampling = propagation.network_size(clip), propagation.frame_resampling()
        grid = extractor.grid(size)
        images = map_ahead(
            pool,
            lambda frame: network_input(frame.read(), size, resampling),
            clip.frames,
            2 * batch_size,
        )
        features = extractor.stream(images, batch_size)
        yield from enumerate(propagation.predictions(clip, features, grid))

    return predict


def stored(task: Task, folder: Path) -> Predict:
    """Predictions from disk for the frames that are scored."""

    def predict(clip: Clip, pool: Executor) -> Iterator[tuple[int, Array]]:
        for index in task.scoring.scored_frames(clip):
            if index in clip.labeled:
                yield index, task.dataset.load(prediction_file(task, clip, index, folder / clip.name), clip)

    return predict


def prediction_file(task: Task, clip: Clip, index: int, folder: Path) -> Path:
    """The prediction for a frame in the folder of its clip."""
    return folder / f"{frame_name(clip, index)}{task.dataset.suffix}"


def open_clips(task: Task, names: Iterable[str]) -> dict[str, Clip | SequenceResult]:
    """Each sequence's clip, or the failure to open it."""
    opened: dict[str, Clip | SequenceResult] = {}
    for name in names:
        try:
            check_sequence_name(name)
            opened[name] = task.dataset.open(name)
        except UserError as error:
            opened[name] = SequenceResult("failed", str(error))
    return opened


def evaluate_clips(
    task: Task, opened: Opened, predict: Predict, workers: int, out: Path | None = None, label: str | None = None
) -> Results:
    """Score the predictions for every clip; a sequence that fails does not stop the others.

    Args:
        task: data set and scoring.
        opened: clips, or failures, which are passed on.
        predict: source of predictions.
        workers: threads for decoding, scoring and writing.
        out: gets a folder of predictions for each finished sequence.
        label: text before the progress bar; None shows no bar.
    """
    results: Results = {}
    total = sum(len(clip.frames) for clip in opened.values() if isinstance(clip, Clip))
    bar = tqdm(total=total, unit="frame", disable=label is None, smoothing=0.05)
    with worker_threads(workers) as pool, bar as progress:
        for name, clip in opened.items():
            if isinstance(clip, SequenceResult):
                results[name] = clip
                continue
            progress.set_description(f"{label} {name}".strip())
            before = progress.n
            try:
                if out is None:
                    results[name] = _score(task, clip, predict, pool, None, progress)
                else:
                    with atomic_path(out / name) as folder:
                        folder.mkdir(parents=True)
                        results[name] = _score(task, clip, predict, pool, folder, progress)
            except UserError as error:
                results[name] = SequenceResult("failed", str(error), frames=len(clip.frames), notes=clip.notes)
            progress.update(before + len(clip.frames) - progress.n)
    return results


def _score(
    task: Task, clip: Clip, predict: Predict, pool: Executor, folder: Path | None, progress: "tqdm[Any]"
) -> SequenceResult:
    """Score predictions as they come, and write them to `folder` if there is one."""
    dataset, scoring = task.dataset, task.scoring
    scored = {index for index in scoring.scored_frames(clip) if index in clip.labeled}

    def finish(indexed: tuple[int, Array]) -> tuple[int, Any, Any]:
        index, prediction = indexed
        if folder is not None:
            dataset.save(prediction_file(task, clip, index, folder), prediction)
        if index not in scored:
            return index, None, None
        truth = dataset.truth(clip, index)
        return index, scoring.compare(clip, truth, prediction), scoring.observe(truth, prediction)

    compared, observed = {}, {}
    for index, comparison, observation in map_ahead(pool, finish, predict(clip, pool), 8):
        if index in scored:
            compared[index], observed[index] = comparison, observation
        progress.update()
    notes = [*clip.notes, *scoring.notes(clip, observed)]
    if not compared:
        return SequenceResult("unscored", scoring.unscored, frames=len(clip.frames), notes=notes)
    result = scoring.result(clip, compared)
    return SequenceResult(
        status="unscored" if result.scores is None else "scored",
        reason=result.reason,
        frames=len(clip.frames),
        frames_scored=len(compared),
        scores=result.scores,
        details=result.details,
        over_time={frame_name(clip, index): score for index, score in result.over_time.items()},
        notes=[*notes, *result.notes],
        counts=result.counts,
    )


def clip_hashes(task: Task, opened: Opened) -> dict[str, str]:
    """Hash of the frames and annotations of each clip whose files can all be read."""
    hashes = {}
    for name, clip in opened.items():
        if isinstance(clip, Clip):
            with suppress(UserError):  # scoring the clip reports the file
                hashes[name] = task.dataset.sha256(clip)
    return hashes


def summarize(task: Task, results: Results) -> dict[str, Any]:
    """The overall scores of the scored sequences; `scores` is None if there are none."""
    scored = [result for result in results.values() if result.status == "scored"]
    return task.scoring.summary(scored) if scored else {"scores": None}


def mean_over_time(results: Results, points: int = 20) -> list[float]:
    """Mean score (points,) over the scored sequences, each resampled to the same length."""
    grid = np.linspace(0, 1, points)
    courses = [np.array([*result.over_time.values()], float) for result in results.values()]
    known = [course[np.isfinite(course)] for course in courses]
    curves = [np.interp(grid, np.linspace(0, 1, len(course)), course) for course in known if len(course) > 1]
    return [float(value) for value in np.mean(curves, 0)] if curves else []
