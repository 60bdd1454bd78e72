"""report.html and report.png of a run: its curves, its settings and data, and samples of a batch."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from pipeline.differences import flatten
from pipeline.files import write_bytes
from pipeline.reading import read_json_lines, reason
from pipeline.report.contact_sheet import spread
from pipeline.report.page import jpeg_uri, render
from pipeline.report.plots import Chart, chart_svg, charts_png
from training.metrics import METRICS, read_metrics
from training.run_config import BATCH_PICTURE, ORIGIN, PAGE, PICTURE

SAMPLES = 4
"""Samples of a batch that are shown."""
_MOST_POINTS = 600
_MOST_SCORES = 6


@contextlib.contextmanager
def never_fatal(name: str) -> Iterator[None]:
    """Context in which an exception becomes a note that `name` was not written: a run does not end by its report."""
    try:
        yield
    except Exception as error:
        tqdm.write(f"note: no {name}: {reason(error)}")


def _chart(title: str, lines: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Chart:
    """The values of `names`, which are shown as their own values, over the steps of the lines that have them."""
    curves = {}
    for key, name in names.items():
        points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
        points = [point for point in points if math.isfinite(point[1])]
        if kept := [points[number] for number in spread(len(points), _MOST_POINTS)] if points else []:
            curves[name] = ([float(step) for step, _ in kept], [float(value) for _, value in kept])
    return Chart(title, curves)


def _keys(lines: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, str]:
    keys = dict.fromkeys(key for line in lines for key in line if key.startswith(prefix))
    return {key: key.removeprefix(prefix) for key in keys}


def run_charts(metrics: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss, learning rate and scores over the steps; without charts that would be empty.

    `metrics` are lines of metrics.jsonl, `scores` lines of an evaluator: `{"step": ..., "scores": {...}}`.
    """
    flat = [{"step": line.get("step"), **flatten(line.get("scores") or {})} for line in scores]
    flat = [line for line in flat if isinstance(line["step"], int)]
    losses = _keys(metrics, "loss/")
    total = {key: name for key, name in losses.items() if name == "total"}
    names = [key for key in _keys(flat, "") if key != "step"][:_MOST_SCORES]
    charts = [
        _chart("Loss", metrics, total),
        _chart("Parts of the loss", metrics, {key: name for key, name in losses.items() if name != "total"}),
        _chart("Learning rate", metrics, {"schedule/lr": "learning rate"}),
        _chart("Scores of the teacher", flat, {name: name for name in names}),
    ]
    return [chart for chart in charts if chart.lines]


def write_run_report(run: Path, config: Mapping[str, Any], last_step: int, score_files: Sequence[str] = ()) -> None:
    """Write report.html and report.png into the folder of a run, from the files in it.

    Args:
        run: folder of the run.
        config: its settings, as config.json has them.
        last_step: number of its last step.
        score_files: names of files of its evaluator, of which those that end in .jsonl are read.
    """
    metrics = read_metrics(run) if (run / METRICS).is_file() else []
    logs = [run / name for name in score_files if name.endswith(".jsonl") and (run / name).is_file()]
    charts = run_charts(metrics, [line for log in logs for line in read_json_lines(log)])
    if charts:
        write_bytes(run / PICTURE, charts_png(charts))
    batch = ""
    if (run / BATCH_PICTURE).is_file():
        with Image.open(run / BATCH_PICTURE) as picture:
            batch = jpeg_uri(picture.convert("RGB"))
    last = metrics[-1] if metrics else {"step": 0}
    page = render(
        Path(__file__).with_name("report.html"),
        title=f"Training run {run.resolve().name}",
        subtitle=f"After {last['step']:,} of {last_step:,} steps, over which the curves are.",
        facts=[
            (shown, name)
            for key, name, text in (
                ("loss/total", "loss", "{:.3f}"),
                ("samples_per_second", "samples a second", "{:,.1f}"),
                ("peak_memory_gb", "GB of memory at most", "{:.1f}"),
            )
            if (shown := text.format(last[key]) if key in last else "")
        ],
        charts=[chart_svg(chart) for chart in charts],
        batch=batch,
        origin={key: json.dumps(config[key]) for key in ORIGIN if config.get(key) is not None},
        config=json.dumps({key: value for key, value in config.items() if key not in ORIGIN}, indent=2),
    )
    write_bytes(run / PAGE, page.encode())
