"""Frames with predictions or labels drawn on them, and a contact sheet of them for each clip."""

from pathlib import Path

from evaluation.benchmark import Clip, Task, frame_name
from evaluation.evaluate import prediction_file
from evaluation.pictures import Picture
from pipeline.files import write_bytes
from pipeline.report.contact_sheet import Row, Tile, blank, contact_sheet, shrink, spread

TILE = (320, 320)
"""Largest width and height of the pictures of sheets and of the report."""
_FRAMES = 6


def drawn_prediction(task: Task, clip: Clip, number: int, predictions: Path) -> Picture | None:
    """Frame `number` (H, W, 3) with the prediction in the clip's folder; None if there is no such file."""
    path = prediction_file(task, clip, number, predictions)
    return task.dataset.draw(clip.frames[number].read(), task.dataset.load(path, clip)) if path.exists() else None


def drawn_truth(task: Task, clip: Clip, number: int) -> Picture | None:
    """Frame `number` (H, W, 3) with its labels; None if it has none."""
    if number not in clip.labeled:
        return None
    return task.dataset.draw(clip.frames[number].read(), task.dataset.truth(clip, number))


def save_sheet(path: Path, task: Task, clip: Clip, predictions: Path) -> None:
    """Write the contact sheet of a clip, unless none of the frames it would show has a prediction."""
    drawn, truths = [], []
    for number in spread(len(clip.frames), _FRAMES):
        if (prediction := drawn_prediction(task, clip, number, predictions)) is not None:
            name, truth = frame_name(clip, number), drawn_truth(task, clip, number)
            drawn.append(Tile(shrink(prediction, TILE), name))
            known = blank(drawn[-1].picture.size) if truth is None else shrink(truth, TILE)
            truths.append(Tile(known, name if truth is not None else f"{name} has no truth"))
    if drawn:
        write_bytes(path, contact_sheet([Row("Prediction", drawn), Row("Ground truth", truths)], clip.name))
