"""report.html: one self-contained page on the scores of one or several checkpoints."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from evaluation.benchmark import Clip, Task, frame_name
from evaluation.comparison import Row, mismatches, row
from evaluation.evaluate import Results, mean_over_time
from evaluation.pictures import Picture
from evaluation.sheets import TILE, drawn_prediction, drawn_truth
from pipeline.files import write_bytes
from pipeline.report.contact_sheet import shrink, spread
from pipeline.report.page import animation_uri, jpeg_uri, percent, render
from pipeline.report.plots import curves, sparkline

MOST_PICTURED = 40
"""With more sequences than this, only the best and the worst have pictures."""
STILLS = 4
MOVING_FRAMES = 32
_ORIGIN = ("protocol", "weights", "predictions", "precision", "data", "versions", "device", "seconds")


class Contender(NamedTuple):
    """A scored checkpoint, or scored predictions from disk."""

    name: str
    record: dict[str, Any]
    """Content of its result file."""
    results: Results
    predictions: Path
    """Folder with a folder of predictions for each sequence."""
    attention: Mapping[str, Picture]
    """Attention map by sequence, if asked for."""


Figure = tuple[str, str]
"""URI of a picture and its caption."""


def write_report(
    path: Path,
    task: Task,
    clips: Mapping[str, Clip],
    contenders: Sequence[Contender],
    num_clips: int,
    earlier: Sequence[Row] = (),
) -> None:
    """Write the page, atomically; `num_clips` of the best and of the worst sequences are animated.

    The scores of `earlier` runs are in the first table only.
    """
    columns = task.scoring.columns
    order = ranked(columns[0], contenders[0].results)
    half = MOST_PICTURED // 2
    pictured = set(order) if len(order) <= MOST_PICTURED else {*order[:half], *order[-half:]}
    results = [(name, result) for contender in contenders for name, result in contender.results.items()]
    rows = [*(row(contender.name, contender.record) for contender in contenders), *earlier]
    incomparable = mismatches(rows)
    scores = {one.name: one.scores[columns[0]] for one in rows if one.scores}
    over_time = [mean_over_time(contender.results) for contender in contenders]
    count = min(num_clips, len(order) // 2)
    page = render(
        Path(__file__).with_name("report.html"),
        title=f"{task.title}: {', '.join(contender.name for contender in contenders)}",
        heading=task.title,
        subtitle=_subtitle(contenders),
        columns=columns,
        detail=task.scoring.detail,
        contenders=contenders,
        problems={name: result.reason for name, result in results if result.status != "scored"},
        rows=rows,
        incomparable=incomparable,
        best=[name for name, score in scores.items() if score == max(scores.values())]
        if len(scores) > 1 and not incomparable
        else [],
        curves=curves(over_time, "share of the sequence") if any(over_time) else "",
        extremes=[
            ("Best sequences", _animations(task, clips, contenders, order[:count])),
            ("Worst sequences", _animations(task, clips, contenders, order[::-1][:count])),
        ],
        pictured="" if len(pictured) == len(order) else f"The {half} best and the {half} worst have pictures.",
        sequences=(
            (
                name,
                sparkline([list(contender.results[name].over_time.values()) for contender in contenders]),
                _stills(task, clips[name], contenders) if name in pictured else [],
            )
            for name in tqdm(order, desc="report", unit="sequence", mininterval=1)
        ),
        notes=dict.fromkeys((name, note) for name, result in results for note in result.notes),
        origins=[
            json.dumps({key: one.record[key] for key in _ORIGIN if key in one.record}, indent=2, default=str)
            for one in contenders
        ],
    )
    write_bytes(path, page.encode())


def ranked(main: str, results: Results) -> list[str]:
    """Scored sequences by the main score, the best first."""
    scored = {name: result.scores[main] for name, result in results.items() if result.scores is not None}
    return sorted(scored, key=lambda name: (-scored[name], name))


def _subtitle(contenders: Sequence[Contender]) -> str:
    results = contenders[0].results.values()
    frames = sum(result.frames_scored for result in results)
    scored = sum(result.status == "scored" for result in results)
    many = f"{len(contenders)} checkpoints side by side. " if len(contenders) > 1 else ""
    return f"{many}{scored} of {len(results)} sequences, {frames} scored frames. All scores in percent."


def _animations(
    task: Task, clips: Mapping[str, Clip], contenders: Sequence[Contender], names: Sequence[str]
) -> list[Figure]:
    figures = []
    for name in names:
        for contender in contenders:
            numbers = spread(len(clips[name].frames), MOVING_FRAMES)
            drawn = [drawn_prediction(task, clips[name], n, contender.predictions / name) for n in numbers]
            if frames := [shrink(picture, TILE) for picture in drawn if picture is not None]:
                score = (contender.results[name].scores or {}).get(task.scoring.columns[0])
                caption = f"{name} · {contender.name} · {percent(score)}"
                figures.append((animation_uri(frames), caption))
    return figures


def _stills(task: Task, clip: Clip, contenders: Sequence[Contender]) -> list[list[Figure]]:
    """Rows of pictures: each checkpoint's predictions, the truth, attention."""

    def figure(picture: Picture, name: str, content: str) -> Figure:
        return jpeg_uri(shrink(picture, TILE)), f"{name} · {content}"

    numbers = {number: frame_name(clip, number) for number in spread(len(clip.frames), STILLS)}
    rows = [
        [
            figure(picture, contender.name, frame)
            for number, frame in numbers.items()
            if (picture := drawn_prediction(task, clip, number, contender.predictions / clip.name)) is not None
        ]
        for contender in contenders
    ]
    truths = {frame: drawn_truth(task, clip, number) for number, frame in numbers.items()}
    rows.append([figure(truth, "truth", frame) for frame, truth in truths.items() if truth is not None])
    maps = {contender.name: contender.attention.get(clip.name) for contender in contenders}
    rows.append([figure(m, name, "attention of the CLS token") for name, m in maps.items() if m is not None])
    return rows
