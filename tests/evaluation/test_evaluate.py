import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from evaluation.benchmark import SequenceResult, Task
from evaluation.davis import Davis, DavisScoring
from evaluation.evaluate import evaluate_clips, mean_over_time, open_clips, propagated, summarize
from evaluation.frames import network_input
from evaluation.masks import MaskClip, MaskPropagation
from tests.evaluation.trees import moving_squares, patch_filter_extractor, write_sequence

PROPAGATION = MaskPropagation(size=(96, 160))


def davis(data: Path, scoring: DavisScoring | None = None) -> Task:
    return Task("davis", "DAVIS", Davis(data=data), scoring or DavisScoring())


def test_only_a_few_frames_of_a_long_clip_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = weakref.WeakSet[Tensor]()

    def counted(*arguments: Any) -> Tensor:
        image = network_input(*arguments)
        alive.add(image)
        return image

    monkeypatch.setattr("evaluation.evaluate.network_input", counted)
    frames, masks = moving_squares(30)
    write_sequence(tmp_path, "long", frames, {0: masks[0]})
    predict = propagated(PROPAGATION, patch_filter_extractor(), batch_size=4)
    most = 0
    with ThreadPoolExecutor(2) as pool:
        for _ in predict(Davis(data=tmp_path).open("long"), pool):
            most = max(most, len(alive))
    assert 4 <= most <= 13  # a batch and what is decoded ahead of it


def test_frames_are_scored_beside_the_thread_that_propagates(tmp_path: Path) -> None:
    scored_by: set[int] = set()

    class Watched(DavisScoring):
        def compare(self, clip: MaskClip, truth: Any, prediction: Any) -> Any:
            scored_by.add(threading.get_ident())
            return super().compare(clip, truth, prediction)

    frames, masks = moving_squares(5)
    write_sequence(tmp_path, "one", frames, dict(enumerate(masks)))
    task = davis(tmp_path, Watched())
    evaluate_clips(task, open_clips(task, ["one"]), propagated(PROPAGATION, patch_filter_extractor(), 2), workers=2)
    assert scored_by
    assert threading.get_ident() not in scored_by


def test_results_do_not_depend_on_batches_and_threads(tmp_path: Path) -> None:
    frames, masks = moving_squares(7)
    write_sequence(tmp_path, "one", frames, dict(enumerate(masks)))
    task = davis(tmp_path)
    opened = open_clips(task, ["one"])
    scores = []
    for batch_size, workers in ((1, 1), (3, 4), (8, 2)):
        predict = propagated(PROPAGATION, patch_filter_extractor(), batch_size)
        results = evaluate_clips(task, opened, predict, workers)
        scores.append(summarize(task, results)["scores"])
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)
    assert scores[2] == pytest.approx(scores[0], abs=1e-6)


def test_curves_of_sequences_of_any_length_are_averaged() -> None:
    def result(values: list[float]) -> SequenceResult:
        return SequenceResult("scored", over_time={str(n): value for n, value in enumerate(values)})

    results = {"a": result([1.0, 0.0]), "b": result([1.0, 0.5, 0.0]), "still": result([]), "one": result([0.3])}
    assert mean_over_time(results, 5) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert mean_over_time({}) == []
