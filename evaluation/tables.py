"""Scores as text tables for the terminal, in percent."""

from collections.abc import Iterable, Sequence

from evaluation.benchmark import Scores
from evaluation.comparison import Row
from evaluation.evaluate import Results

_TOTAL = "all together"


def table(columns: Sequence[str], results: Results, total: Scores | None) -> str:
    """A line for each sequence with its notes below it, and one for all together."""
    width, cell = _widths(columns, (*results, _TOTAL))
    lines = [_line("percent", columns, width, cell) + "  scored"]
    for name, result in results.items():
        if result.scores is None:
            lines.append(f"{name.ljust(width)}  {result.status}: {result.reason}")
        else:
            scores = _line(name, _percent(columns, result.scores), width, cell)
            lines.append(f"{scores}  {result.frames_scored} of {result.frames} frames")
        lines += [f"  note: {note}" for note in result.notes]
    if total is None:
        lines.append(f"No score: none of {len(results)} sequences could be scored.")
    else:
        scored = sum(result.status == "scored" for result in results.values())
        lines.append(f"{_line(_TOTAL, _percent(columns, total), width, cell)}  {scored} of {len(results)} sequences")
    return "\n".join(lines)


def comparison(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The overall scores, a line for each model, with its protocol."""
    width, cell = _widths(columns, (*(row.name for row in rows), "percent"))
    lines = [f"{_line('percent', columns, width, cell)}  protocol"]
    lines += [f"{_line(row.name, _percent(columns, row.scores), width, cell)}  {row.protocol}" for row in rows]
    return "\n".join(lines)


def _widths(columns: Iterable[str], names: Iterable[str]) -> tuple[int, int]:
    """Characters of the column of names, and of a column of scores."""
    return max(map(len, names)), max(10, *(len(column) + 2 for column in columns))


def _percent(columns: Iterable[str], scores: Scores | None) -> list[str]:
    return [f"{100 * scores[column]:.1f}" if scores else "-" for column in columns]


def _line(name: str, cells: Iterable[str], width: int, cell: int) -> str:
    return name.ljust(width) + "".join(text.rjust(cell) for text in cells)
