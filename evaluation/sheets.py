"""Frames of a clip with its predictions and its truth drawn on them; one contact sheet for each clip."""

from pathlib import Path
from typing import Any

from evaluation.frames import read_frame
from evaluation.pictures import Picture, shrink
from evaluation.task import Clip, Task, frame_name
from pipeline.files import write_bytes
from pipeline.report.contact_sheet import Row, Tile, blank, contact_sheet, spread

_FRAMES = 6


def drawn_prediction(task: Task[Any], clip: Clip, number: int, predictions: Path) -> Picture | None:
    """Frame `number` (H, W, 3) with the prediction in the clip's folder; None if it has none."""
    path = predictions / f"{frame_name(clip, number)}{task.suffix}"
    return task.draw(_picture(clip, number), task.load(path, clip)) if path.exists() else None


def drawn_truth(task: Task[Any], clip: Clip, number: int) -> Picture | None:
    """Frame `number` (H, W, 3) with its truth; None if it is not annotated."""
    truth = task.truth(clip, number)
    return None if truth is None else task.draw(_picture(clip, number), truth)


def _picture(clip: Clip, number: int) -> Picture:
    frame = clip.frames[number]
    return read_frame(frame.path, frame.orientation)


def save_sheet(path: Path, task: Task[Any], clip: Clip, predictions: Path) -> None:
    """Write the contact sheet of a clip; nothing if no frame that it would show has a prediction."""
    drawn, truths = [], []
    for number in spread(len(clip.frames), _FRAMES):
        if (prediction := drawn_prediction(task, clip, number, predictions)) is not None:
            name, truth = frame_name(clip, number), drawn_truth(task, clip, number)
            drawn.append(Tile(shrink(prediction), name))
            known = blank(drawn[-1].picture.size) if truth is None else shrink(truth)
            truths.append(Tile(known, name if truth is not None else f"{name} has no truth"))
    if drawn:
        write_bytes(path, contact_sheet([Row("Prediction", drawn), Row("Ground truth", truths)], clip.name))
