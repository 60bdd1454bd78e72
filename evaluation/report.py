"""report.html: one page without outside files that shows what a result is made of, for one or several checkpoints."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from evaluation.evaluate import Results, mean_over_time
from evaluation.pictures import TILE_WIDTH, Picture, shrink, spread
from evaluation.report_parts import STYLE, chart, colour, moving, per_cent, sparkline, still, table
from evaluation.sheets import drawn_prediction, drawn_truth
from evaluation.task import Clip, Task, frame_name
from pipeline.files import write_bytes

MOST_PICTURED = 40
"""With more sequences than this, only the best and the worst of them are shown in pictures."""
STILLS = 4
MOVING_FRAMES = 32


class Contender(NamedTuple):
    """A checkpoint or somebody's predictions, scored: one column of the report."""

    name: str
    record: dict[str, Any]
    """What its result file says."""
    results: Results
    predictions: Path
    """Folder with one folder of predictions for each sequence."""


Attention = Mapping[str, Mapping[str, Picture]]
"""Pictures by checkpoint and sequence."""


def write_report(
    path: Path,
    task: Task[Any],
    clips: Mapping[str, Clip],
    contenders: Sequence[Contender],
    attention: Attention,
    num_clips: int,
) -> None:
    """Write the page, atomically."""
    title = f"{task.title}: {', '.join(contender.name for contender in contenders)}"
    order = ranked(task, contenders[0].results)
    parts = [
        f"<h1>{escape(task.title)}</h1>",
        f"<p>{escape(_subtitle(task, contenders))}</p>",
        _problems(contenders),
        _cards(task, contenders[0]) if len(contenders) == 1 else "",
        _scores(task, contenders),
        _over_time(task, contenders),
        _overall_details(task, contenders),
        _extremes(task, clips, contenders, order, num_clips),
        _sequences(task, clips, contenders, order, attention),
        _notes(contenders),
        _details(contenders),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    write_bytes(path, page.encode())


def ranked(task: Task[Any], results: Results) -> list[str]:
    """Scored sequences, the best first."""
    main = task.columns[0]
    scored = {name: result.scores[main] for name, result in results.items() if result.scores is not None}
    return sorted(scored, key=lambda name: (-scored[name], name))


def _subtitle(task: Task[Any], contenders: Sequence[Contender]) -> str:
    results = contenders[0].results.values()
    frames = sum(result.frames_scored for result in results)
    scored = sum(result.status == "scored" for result in results)
    many = f"{len(contenders)} checkpoints side by side. " if len(contenders) > 1 else ""
    return f"{many}{scored} of {len(contenders[0].results)} sequences, {frames} scored frames. All scores in per cent."


def _problems(contenders: Sequence[Contender]) -> str:
    failed = {
        name: result.reason or ""
        for contender in contenders
        for name, result in contender.results.items()
        if result.status != "scored"
    }
    if not failed:
        return ""
    items = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in failed.items())
    return (
        f'<div class="warn">Not in the scores, which are therefore those of a part of the data:<ul>{items}</ul></div>'
    )


def _cards(task: Task[Any], contender: Contender) -> str:
    scores = contender.record["scores"]
    if scores is None:
        return ""
    cards = (f'<div class="card"><b>{per_cent(scores[c])}</b><span>{escape(c)}</span></div>' for c in task.columns[:4])
    return f'<div class="cards">{"".join(cards)}</div>'


def _dot(number: int, name: str) -> str:
    return f'<span class="dot" style="background:{colour(number)}"></span>{escape(name)}'


def _scores(task: Task[Any], contenders: Sequence[Contender]) -> str:
    rows = []
    for number, contender in enumerate(contenders):
        scores = contender.record["scores"] or {}
        cells = [f"<td>{_dot(number, contender.name)}</td>"]
        for column in task.columns:
            values = [c.record["scores"][column] for c in contenders if c.record["scores"]]
            best = len(values) > 1 and column == task.columns[0] and scores.get(column) == max(values)
            cells.append(f"<td{' class=best' if best else ''}>{per_cent(scores.get(column))}</td>")
        rows.append(cells)
    return "<h2>Scores</h2>" + table(["", *task.columns], rows)


def _over_time(task: Task[Any], contenders: Sequence[Contender]) -> str:
    curves = {contender.name: mean_over_time(contender.results) for contender in contenders}
    drawing = chart({name: values for name, values in curves.items() if values})
    if not drawing:
        return ""
    legend = " &nbsp; ".join(_dot(number, contender.name) for number, contender in enumerate(contenders))
    note = f"Mean score of a frame ({_plural(task.detail)} averaged), over all sequences brought to the same length."
    return f"<h2>Score against time</h2><p>{escape(note)}</p>{drawing}<p>{legend}</p>"


def _plural(word: str) -> str:
    return f"{word}es" if word.endswith("s") else f"{word}s"


def _overall_details(task: Task[Any], contenders: Sequence[Contender]) -> str:
    known = [contender.record.get("details", {}) for contender in contenders]
    names = list(dict.fromkeys(name for details in known for name in details))
    if not names:
        return ""
    columns = list(known[0][names[0]]) if names[0] in known[0] else []
    head = ["", *(f"{column}, {c.name}" if len(contenders) > 1 else column for c in contenders for column in columns)]
    rows = [
        [f"<td>{escape(name)}</td>", *(per_cent(d.get(name, {}).get(column)) for d in known for column in columns)]
        for name in names
    ]
    return f"<h2>{escape(_plural(task.detail).capitalize())} over all sequences</h2>{table(head, rows)}"


def _extremes(
    task: Task[Any], clips: Mapping[str, Clip], contenders: Sequence[Contender], order: Sequence[str], count: int
) -> str:
    count = min(count, len(order) // 2)
    best, worst = order[:count], order[::-1][:count]
    parts = []
    for heading, names in (("Best sequences", best), ("Worst sequences", worst)):
        figures = [
            moving(frames, f"{name} · {contender.name} · {per_cent(_score(task, contender, name))}")
            for name in names
            for contender in contenders
            if (frames := _moving_frames(task, clips[name], contender))
        ]
        if figures:
            parts.append(f'<h2>{heading}</h2><div class="grid">{"".join(figures)}</div>')
    return "".join(parts)


def _moving_frames(task: Task[Any], clip: Clip, contender: Contender) -> list[Any]:
    pictures = (
        drawn_prediction(task, clip, number, contender.predictions / clip.name)
        for number in spread(len(clip.frames), MOVING_FRAMES)
    )
    return [shrink(picture, TILE_WIDTH) for picture in pictures if picture is not None]


def _score(task: Task[Any], contender: Contender, name: str) -> float | None:
    scores = contender.results[name].scores
    return None if scores is None else scores[task.columns[0]]


def _sequences(
    task: Task[Any],
    clips: Mapping[str, Clip],
    contenders: Sequence[Contender],
    order: Sequence[str],
    attention: Attention,
) -> str:
    half = MOST_PICTURED // 2
    pictured = set(order) if len(order) <= MOST_PICTURED else {*order[:half], *order[-half:]}
    heads = "".join(
        f'<span class="number" title="{escape(c.name)}">{_dot(n, "")}</span>' for n, c in enumerate(contenders)
    )
    rest = "" if len(pictured) == len(order) else f" Pictures of the {half} best and the {half} worst."
    parts = [
        f"<h2>Sequences</h2><p>{escape(task.columns[0])} and its course over time, the best first; open one for its "
        f"{_plural(task.detail)} and frames.{rest}</p>",
        f'<div class="heads"><span class="name"></span>{heads}<span style="width:170px"></span></div>',
    ]
    for name in tqdm(order, desc="report", unit="sequence", mininterval=1):
        curves = [list(contender.results[name].over_time.values()) for contender in contenders]
        numbers = "".join(f'<span class="number">{per_cent(_score(task, c, name))}</span>' for c in contenders)
        stills = _stills(task, clips[name], contenders, attention) if name in pictured else ""
        parts.append(
            f'<details{" open" if name == order[0] else ""}><summary><span class="name">{escape(name)}</span>'
            f"{numbers}{sparkline(curves)}</summary>"
            f"<div>{stills}{_details_table(task, name, contenders)}</div></details>"
        )
    return "".join(parts)


def _stills(task: Task[Any], clip: Clip, contenders: Sequence[Contender], attention: Attention) -> str:
    numbers = spread(len(clip.frames), STILLS)
    rows = []
    for contender in contenders:
        drawn = [
            still(shrink(picture), f"{contender.name} · {frame_name(clip, number)}")
            for number in numbers
            if (picture := drawn_prediction(task, clip, number, contender.predictions / clip.name)) is not None
        ]
        rows.append(drawn)
    rows.append(
        [
            still(shrink(picture), f"truth · {frame_name(clip, number)}")
            for number in numbers
            if (picture := drawn_truth(task, clip, number)) is not None
        ]
    )
    maps = [
        still(shrink(attention[contender.name][clip.name]), f"{contender.name} · attention of the CLS token")
        for contender in contenders
        if clip.name in attention.get(contender.name, {})
    ]
    return "".join(f'<div class="row">{"".join(row)}</div>' for row in (*rows, maps) if row)


def _details_table(task: Task[Any], name: str, contenders: Sequence[Contender]) -> str:
    kinds = list(dict.fromkeys(kind for contender in contenders for kind in contender.results[name].details))
    rows = []
    columns: list[str] = []
    for number, contender in enumerate(contenders):
        result = contender.results[name]
        for kind in kinds:
            if kind in result.details:
                columns = list(result.details[kind])
                values = [per_cent(value) for value in result.details[kind].values()]
                rows.append([f"<td>{_dot(number, f'{task.detail} {kind}')}</td>", *values])
    return table(["", *columns], rows) if rows else ""


def _notes(contenders: Sequence[Contender]) -> str:
    noted = dict.fromkeys(
        (name, note) for contender in contenders for name, result in contender.results.items() for note in result.notes
    )
    items = "".join(f"<li>{escape(name)}: {escape(note)}</li>" for name, note in noted)
    return f"<h2>Notes</h2><p>What was odd, and how it was counted.</p><ul>{items}</ul>" if items else ""


def _details(contenders: Sequence[Contender]) -> str:
    parts = ["<h2>What the numbers depend on</h2>"]
    for contender in contenders:
        kept = ("protocol", "weights", "predictions", "precision", "data", "versions", "device", "seconds")
        shown = {key: contender.record[key] for key in kept if key in contender.record}
        text = escape(json.dumps(shown, indent=2, default=str))
        parts.append(
            f'<details><summary><span class="name">{escape(contender.name)}</span></summary>'
            f"<div><pre>{text}</pre></div></details>"
        )
    return "".join(parts)
