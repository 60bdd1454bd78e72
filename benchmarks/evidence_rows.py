"""What `make evidence` compares, and what its numbers say: rows, measures, orderings, all as pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

Scores = Mapping[str, float]
"""One run's score by the name of the measure, as a fraction."""
Table = Mapping[str, Sequence[Scores]]
"""The scores of each row's seeds."""

MEASURES = {"davis": "J&F-Mean", "vip": "mIoU", "jhmdb": "PCK@0.2"}
"""Evaluation task and the key of its score."""
TITLES = {"davis": "J&F (DAVIS)", "vip": "part mIoU (VIP)", "jhmdb": "PCK@0.2 (JHMDB)"}


@dataclass(frozen=True)
class Row:
    """One way to come by weights."""

    name: str
    title: str
    options: tuple[str, ...] = ()
    """What is changed in the preset."""
    trained: bool = True


ROWS = (
    Row("random", "random weights", trained=False),
    Row(
        "no-auxiliary",
        "no auxiliary branch",
        ("--data.sandwich.auxiliary", "", "--model.auxiliary_branch", "false"),
    ),
    Row("past-only", "past only", ("--data.sandwich.auxiliary", "past")),
    Row("no-squeeze", "both, without squeeze", ("--model.loss.squeeze", "0")),
    Row("full", "full"),
)
ROWS_ON_REAL_CLIPS = ("random", "no-auxiliary", "full")

ORDERINGS = (
    ("past-only", "no-auxiliary"),
    ("no-squeeze", "no-auxiliary"),
    ("full", "no-auxiliary"),
    ("full", "past-only"),
    ("full", "no-squeeze"),
)
"""(better, worse) row in the paper's table 3 (DAVIS J&F of ViT-S/16, 100 epochs)."""


def row(name: str) -> Row:
    """The row of this name."""
    return next(one for one in ROWS if one.name == name)


class Spread(NamedTuple):
    """Mean and standard deviation of a score over seeds; the deviation of a single seed is 0."""

    mean: float
    deviation: float
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


class Difference(NamedTuple):
    """How much higher one row scores than another, with the standard error of that difference of means."""

    mean: float
    error: float

    @property
    def verdict(self) -> str:
        """`shows` or `is reversed` beyond twice the standard error, else `does not show`; so with a single seed too."""
        if math.isnan(self.error) or abs(self.mean) <= 2 * self.error:
            return "does not show"
        return "shows" if self.mean > 0 else "is reversed"


def difference(better: Sequence[float], worse: Sequence[float]) -> Difference:
    """Difference of means of two rows; its standard error is NaN where a row has a single seed."""
    high, low = spread(better), spread(worse)
    if min(high.seeds, low.seeds) < 2:
        return Difference(high.mean - low.mean, math.nan)
    error = math.sqrt(high.deviation**2 / high.seeds + low.deviation**2 / low.seeds)
    return Difference(high.mean - low.mean, error)


def compare(table: Table, better: str, worse: str, task: str = "davis") -> Difference:
    """Difference of two rows of a table in the measure of a task."""
    key = MEASURES[task]
    return difference(*([scores[key] for scores in table[name]] for name in (better, worse)))


def orderings(table: Table) -> list[tuple[str, str, Difference]]:
    """The paper's orderings by J&F whose two rows the table has."""
    return [(*pair, compare(table, *pair)) for pair in ORDERINGS if table.keys() >= set(pair)]


def signed(found: Difference) -> str:
    """Difference and standard error in points of per cent."""
    error = "" if math.isnan(found.error) else f" ± {100 * found.error:.1f}"
    return f"{100 * found.mean:+.1f}{error}"


def paragraph(table: Table) -> str:
    """What the table says, in words that follow from its numbers alone."""
    tasks = [task for task, key in MEASURES.items() if all(key in one for seeds in table.values() for one in seeds)]
    against_random = {task: compare(table, "full", "random", task) for task in tasks}
    gains = ", ".join(f"{signed(result)} in {TITLES[task]}" for task, result in against_random.items())
    clear = sum(result.verdict == "shows" for result in against_random.values())
    by_verdict: dict[str, list[str]] = {"shows": [], "does not show": [], "is reversed": []}
    for better, worse, result in orderings(table):
        by_verdict[result.verdict].append(f"{row(better).title} over {row(worse).title} ({signed(result)})")
    message = [
        f"Against random weights, full training changes the scores by {gains}: a clear gain in {clear} of "
        f"{len(against_random)} measures."
    ]
    words = {
        "shows": "Of the paper's orderings by J&F these show at this size",
        "does not show": "These do not show, the difference being within twice its standard error",
        "is reversed": "These are reversed",
    }
    message += [f"{words[verdict]}: {'; '.join(result) or 'none'}." for verdict, result in by_verdict.items()]
    return " ".join(message)


def final_losses(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The loss terms in the last line of a run's metrics."""
    return {key.removeprefix("loss/"): value for key, value in lines[-1].items() if key.startswith("loss/")}
