"""Scores of several models side by side, and why they may not compare."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.benchmark import Scores
from pipeline.reading import read_json
from pipeline.settings import UserError


class Row(NamedTuple):
    """The overall scores of a model."""

    name: str
    scores: Scores | None
    protocol: str
    """Its name and what was changed."""
    data: str
    """Hash of the sequences."""


def row(name: str, record: Mapping[str, Any]) -> Row:
    """The row of a result file's content."""
    known = record["protocol"].get("name", "unknown protocol")
    return Row(name, record["scores"], known, record["data"]["sha256"])


def read_rows(paths: Iterable[Path], task: str, columns: Sequence[str]) -> list[Row]:
    """The rows of earlier result files, with the name of the weights and of the file's folder.

    Raises:
        UserError: a file is missing, or is no result of this benchmark with these scores.
    """
    rows = []
    for path in paths:
        record = read_json(path)
        try:
            if record["task"] != task:
                raise UserError(f"--compare {path}: a result of {record['task']}, not of {task}")
            weights = record.get("weights", {}).get("name", "predictions")
            rows.append(row(f"{weights} ({path.resolve().parent.name})", record))
            if rows[-1].scores is not None and not set(columns) <= rows[-1].scores.keys():
                raise UserError(f"--compare {path}: has other scores than {', '.join(columns)}")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"--compare {path}: not a result file of `python -m evaluation {task}`") from error
    return rows


def mismatches(rows: Sequence[Row]) -> list[str]:
    """Sentences on why the scores do not compare; empty if they do."""
    sentences = []
    protocols = {one.protocol for one in rows}
    if len(protocols) > 1:
        named = "; ".join(f"{one.name}: {one.protocol}" for one in rows)
        sentences.append(f"Scores of different protocols do not compare ({named}).")
    if len({one.data for one in rows}) > 1:
        sentences.append("Scores of different data do not compare: the sequences or their files differ.")
    return sentences
