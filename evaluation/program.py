"""The two programs: score weights, or predictions from disk. They write result files, contact sheets and the report."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.benchmark import Benchmark, Clip, Task, protocol, protocol_name
from evaluation.cls_attention import attention_maps
from evaluation.command import (
    CHECKPOINTS,
    PREDICTIONS,
    REPORT,
    SHEETS,
    EvaluationCommand,
    ScoreCommand,
    bind,
    chosen_propagation,
    open_checkpoints,
    prepare_output,
    select_device,
    software,
    write_result,
)
from evaluation.comparison import Row, mismatches, read_rows, row
from evaluation.evaluate import (
    Opened,
    Results,
    clip_hashes,
    evaluate_clips,
    open_clips,
    propagated,
    stored,
    summarize,
)
from evaluation.report import Contender, write_report
from evaluation.sheets import save_sheet
from evaluation.tables import comparison, table
from pipeline.settings import UserError


def run_weights(benchmark: Benchmark, command: EvaluationCommand) -> int:
    """Score each checkpoint; returns 1 if a sequence failed or none was scored, else 0.

    Raises:
        UserError: a problem that concerns every sequence, e.g. in the weights or the folders.
    """
    task, chosen = bind(benchmark, command), chosen_propagation(benchmark, command)
    name = protocol_name(task, chosen, command.protocol)
    names, earlier = _names(task), read_rows(command.compare, task.name, task.scoring.columns)
    checkpoints = open_checkpoints(command)
    for checkpoint in checkpoints:
        checkpoint.extractor.grid(chosen.fitted(checkpoint.extractor.patch_size).smallest_size())
    prepare_output(command.out, task.dataset.data, task.name)
    opened = open_clips(task, names)
    hashes = clip_hashes(task, opened)
    several, runs = len(checkpoints) > 1, []
    for checkpoint in checkpoints:
        out = command.out / CHECKPOINTS / checkpoint.name if several else command.out
        propagation = chosen.fitted(checkpoint.extractor.patch_size)
        predict = propagated(propagation, checkpoint.extractor, command.batch_size)
        label = checkpoint.name if several else ""
        started = time.perf_counter()
        results = evaluate_clips(task, opened, predict, command.workers, out / PREDICTIONS, label)
        origin = {
            "seconds": round(time.perf_counter() - started, 2),
            "versions": software(),
            "weights": checkpoint.origin,
            "precision": command.precision,
            "device": str(select_device(command.device)),
        }
        patch_size = checkpoint.extractor.patch_size
        constants = {"name": name, **protocol(task, propagation), "patch_size": patch_size}
        record = make_record(task, results, hashes, constants, origin)
        write_result(out / f"{task.name}.json", record)
        maps = {}
        if command.report.enabled and command.report.attention:
            maps = attention_maps(checkpoint, propagation, _shown(opened, results))
        runs.append(Contender(checkpoint.name, record, results, out / PREDICTIONS, maps))
        if several:
            print(f"\n{checkpoint.name}")
        print(table(task.scoring.columns, results, record["scores"]))
    print(f"Protocol: {name}")
    if command.report.enabled:
        _show(task, opened, runs, command.out, command.report.clips, earlier)
    _print_comparison(task, runs, earlier)
    print(f"Results, predictions and pictures: {command.out}")
    return _status(runs)


def run_predictions(benchmark: Benchmark, command: ScoreCommand) -> int:
    """Score the predictions in a folder; returns 1 if a sequence failed or none was scored, else 0.

    Raises:
        UserError: a problem that concerns every sequence.
    """
    task, out, predictions = bind(benchmark, command), command.out, command.predictions
    names, earlier = _names(task), read_rows(command.compare, task.name, task.scoring.columns)
    if not predictions.is_dir():
        raise UserError(f"--predictions {predictions} is not a folder")
    if out is not None:
        if predictions.resolve().is_relative_to(out.resolve()):
            raise UserError(f"--predictions {predictions} is inside --out {out}; choose another --out")
        prepare_output(out, task.dataset.data, task.name)
    opened = open_clips(task, names)
    hashes = clip_hashes(task, opened)
    started = time.perf_counter()
    results = evaluate_clips(task, opened, stored(task, predictions), command.workers, label="")
    origin = {
        "seconds": round(time.perf_counter() - started, 2),
        "versions": software(),
        "predictions": {"path": str(predictions)},
    }
    constants = {"name": protocol_name(task), **protocol(task)}
    record = make_record(task, results, hashes, constants, origin)
    runs = [Contender(predictions.resolve().name, record, results, predictions, {})]
    print(table(task.scoring.columns, results, record["scores"]))
    if out is not None:
        write_result(out / f"{task.name}.json", record)
        if command.report.enabled:
            _show(task, opened, runs, out, command.report.clips, earlier)
        print(f"Result and pictures: {out}")
    _print_comparison(task, runs, earlier)
    return _status(runs)


def make_record(
    task: Task, results: Results, hashes: Mapping[str, str], constants: Mapping[str, Any], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of the result file.

    Args:
        task: data set and scoring.
        results: by sequence.
        hashes: of each sequence's frames and annotations, if they can be read.
        constants: of the protocol.
        origin: what was scored, with which software, and how long it took.
    """
    sequences = {name: asdict(result) | {"sha256": hashes.get(name)} for name, result in results.items()}
    for sequence in sequences.values():
        del sequence["counts"]
    lines = "".join(f"{name} {hashes.get(name)}\n" for name in sorted(results))
    return {
        "task": task.name,
        "title": task.title,
        "complete": all(result.status == "scored" for result in results.values()),
        **summarize(task, results),
        "sequences": sequences,
        "protocol": constants,
        "data": {"path": str(task.dataset.data), "sha256": hashlib.sha256(lines.encode()).hexdigest()},
        **origin,
    }


def _names(task: Task) -> list[str]:
    if not task.dataset.data.is_dir():
        raise UserError(f"--data {task.dataset.data} is not a folder")
    return task.dataset.names()


def _status(runs: Sequence[Contender]) -> int:
    failed = any(result.status == "failed" for run in runs for result in run.results.values())
    return int(failed or any(run.record["scores"] is None for run in runs))


def _shown(opened: Opened, results: Results) -> dict[str, Clip]:
    """The clips that did not fail."""
    return {name: clip for name, clip in opened.items() if isinstance(clip, Clip) and results[name].status != "failed"}


def _print_comparison(task: Task, runs: Sequence[Contender], earlier: Sequence[Row]) -> None:
    """The table of several models, and why they may not compare."""
    rows = [*(row(run.name, run.record) for run in runs), *earlier]
    if len(rows) > 1:
        print(f"\n{comparison(task.scoring.columns, rows)}")
        for sentence in mismatches(rows):
            print(f"note: {sentence}")


def _show(
    task: Task, opened: Opened, runs: Sequence[Contender], out: Path, num_clips: int, earlier: Sequence[Row]
) -> None:
    """Write contact sheets and the report."""
    clips: dict[str, Clip] = {}
    for run in runs:
        folder = out / SHEETS if len(runs) == 1 else out / CHECKPOINTS / run.name / SHEETS
        shown = _shown(opened, run.results)
        clips |= shown
        for name, clip in shown.items():
            save_sheet(folder / f"{name}.png", task, clip, run.predictions / name)
    write_report(out / REPORT, task, clips, runs, num_clips, earlier)
