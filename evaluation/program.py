"""The programs: a task for one or several checkpoints, or for predictions on disk; results, pictures, report."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from evaluation.backbones import Checkpoint
from evaluation.cls_attention import attention_maps
from evaluation.command import (
    CHECKPOINTS,
    PREDICTIONS,
    REPORT,
    SHEETS,
    DataCommand,
    EvaluationCommand,
    ScoreCommand,
    open_checkpoints,
    prepare_output,
    select_device,
    software,
    write_result,
)
from evaluation.evaluate import Results, clip_hashes, evaluate_clips, open_clips, summarize
from evaluation.report import Contender, write_report
from evaluation.sheets import save_sheet
from evaluation.task import Clip, Scores, SequenceResult, Task
from pipeline.settings import UserError


def run_weights(task: Task[Any], command: EvaluationCommand) -> int:
    """Evaluate all weights and write each one's result last; returns 1 if a sequence failed or none was scored, else 0.

    Raises:
        UserError: something is wrong that concerns every sequence, such as the weights or the folders.
    """
    names = _names(task, command)
    checkpoints = open_checkpoints(command)
    for checkpoint in checkpoints:
        checkpoint.extractor.grid(task.smallest_size())
    prepare_output(command.out, command.data, task.name)
    opened, hashes = _open(task, command, names)
    runs = []
    for checkpoint in checkpoints:
        several = len(checkpoints) > 1
        out = command.out / CHECKPOINTS / checkpoint.name if several else command.out
        started = time.perf_counter()
        results = evaluate_clips(
            task,
            opened,
            checkpoint.extractor,
            batch_size=command.batch_size,
            workers=command.workers,
            out=out / PREDICTIONS,
            label=checkpoint.name if several else "",
        )
        seconds = time.perf_counter() - started
        origin = {
            "weights": checkpoint.origin,
            "precision": command.precision,
            "device": str(select_device(command.device)),
        }
        record, results = make_record(task, command, hashes, results, origin, seconds, checkpoint.extractor.patch_size)
        write_result(out / f"{task.name}.json", record)
        runs.append(Contender(checkpoint.name, record, results, out / PREDICTIONS))
        if several:
            print(f"\n{checkpoint.name}")
        print(table(task, results, record["scores"]))
    _show(task, command, opened, runs, command.out, checkpoints)
    if len(runs) > 1:
        print(f"\n{comparison(task, {run.name: run.record['scores'] for run in runs})}")
    print(f"Results, predictions and pictures: {command.out}")
    return _status(runs)


def run_predictions(task: Task[Any], command: ScoreCommand) -> int:
    """Score the predictions in a folder; returns 1 if a sequence failed or none was scored, else 0.

    Raises:
        UserError: something is wrong that concerns every sequence.
    """
    names = _names(task, command)
    if not command.predictions.is_dir():
        raise UserError(f"--predictions {command.predictions} is not a folder")
    if command.out is not None:
        if command.predictions.resolve().is_relative_to(command.out.resolve()):
            raise UserError(f"--predictions {command.predictions} lies in --out {command.out}; choose another --out")
        prepare_output(command.out, command.data, task.name)
    opened, hashes = _open(task, command, names)
    started = time.perf_counter()
    results = evaluate_clips(task, opened, command.predictions, batch_size=1, workers=command.workers, out=None)
    seconds = time.perf_counter() - started
    origin = {"predictions": {"path": str(command.predictions)}}
    record, results = make_record(task, command, hashes, results, origin, seconds, None)
    print(table(task, results, record["scores"]))
    runs = [Contender(command.predictions.resolve().name, record, results, command.predictions)]
    if command.out is not None:
        write_result(command.out / f"{task.name}.json", record)
        _show(task, command, opened, runs, command.out, [])
        print(f"Result and pictures: {command.out}")
    return _status(runs)


def make_record(
    task: Task[Any],
    command: DataCommand,
    hashes: Mapping[str, str],
    results: Results,
    origin: Mapping[str, Any],
    seconds: float,
    patch_size: int | None,
) -> tuple[dict[str, Any], Results]:
    """What the result file says, and the results with the hash of the data that each came from."""
    results = {name: replace(result, sha256=hashes.get(name)) for name, result in results.items()}
    sequences = {
        name: {key: value for key, value in asdict(result).items() if key != "counts"}
        for name, result in results.items()
    }
    lines = "".join(f"{name} {result.sha256}\n" for name, result in sorted(results.items()))
    record = {
        "task": task.name,
        "complete": all(result.status == "scored" for result in results.values()),
        **summarize(task, results),
        "sequences": sequences,
        "protocol": task.protocol() | ({"patch_size": patch_size} if patch_size else {}),
        "data": {"path": str(command.data), "sha256": hashlib.sha256(lines.encode()).hexdigest()},
        "seconds": round(seconds, 2),
        "versions": software(),
        **origin,
    }
    return record, results


def _names(task: Task[Any], command: DataCommand) -> list[str]:
    if not command.data.is_dir():
        raise UserError(f"--data {command.data} is not a folder")
    return task.names()


def _open(
    task: Task[Any], command: DataCommand, names: Sequence[str]
) -> tuple[dict[str, Clip | SequenceResult], dict[str, str]]:
    opened = open_clips(task, names)
    return opened, clip_hashes(task, command.data, opened)


def _status(runs: Sequence[Contender]) -> int:
    failed = any(result.status == "failed" for run in runs for result in run.results.values())
    return int(failed or any(run.record["scores"] is None for run in runs))


def _show(
    task: Task[Any],
    command: DataCommand,
    opened: Mapping[str, Clip | SequenceResult],
    runs: Sequence[Contender],
    out: Path,
    checkpoints: Sequence[Checkpoint],
) -> None:
    if not command.report.enabled:
        return
    clips = {
        name: clip
        for name, clip in opened.items()
        if isinstance(clip, Clip) and any(run.results[name].status != "failed" for run in runs)
    }
    for run in runs:
        for name, clip in clips.items():
            if run.results[name].status != "failed":
                folder = out if len(runs) == 1 else out / CHECKPOINTS / run.name
                save_sheet(folder / SHEETS / f"{name}.png", task, clip, run.predictions / name)
    attention = {}
    if command.report.attention:
        with torch.no_grad():
            attention = {c.name: attention_maps(c, task, clips) for c in checkpoints}
    write_report(out / REPORT, task, clips, runs, attention, command.report.clips)


def table(task: Task[Any], results: Results, total: Scores | None) -> str:
    """The scores in per cent, a line for each sequence with its notes below it, and one for all together."""
    width = max(map(len, (*results, "all together")))
    cell = max(10, *(len(column) + 2 for column in task.columns))

    def line(name: str, scores: Scores, note: str) -> str:
        return name.ljust(width) + "".join(f"{100 * scores[column]:{cell}.1f}" for column in task.columns) + f"  {note}"

    lines = ["per cent".ljust(width) + "".join(f"{column:>{cell}}" for column in task.columns) + "  scored"]
    for name, result in results.items():
        if result.scores is None:
            lines.append(f"{name.ljust(width)}  {result.status}: {result.reason}")
        else:
            lines.append(line(name, result.scores, f"{result.frames_scored} of {result.frames} frames"))
        lines += [f"  note: {note}" for note in result.notes]
    if total is not None:
        scored = sum(result.status == "scored" for result in results.values())
        lines.append(line("all together", total, f"{scored} of {len(results)} sequences"))
    else:
        lines.append(f"No score: none of {len(results)} sequences could be scored.")
    return "\n".join(lines)


def comparison(task: Task[Any], scores: Mapping[str, Scores | None]) -> str:
    """The overall scores in per cent, a line for each checkpoint."""
    width = max(map(len, (*scores, "per cent")))
    cell = max(10, *(len(column) + 2 for column in task.columns))
    lines = ["per cent".ljust(width) + "".join(f"{column:>{cell}}" for column in task.columns)]
    for name, row in scores.items():
        cells = (f"{100 * row[column]:{cell}.1f}" if row else f"{'-':>{cell}}" for column in task.columns)
        lines.append(name.ljust(width) + "".join(cells))
    return "\n".join(lines)
