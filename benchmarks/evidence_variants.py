"""What `make evidence` compares, and what its numbers say: variants, measures, orderings, all as pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

Scores = Mapping[str, float]
"""One run's score by the name of the measure, as a fraction."""
Table = Mapping[str, Sequence[Scores]]
"""The scores of each variant's seeds."""

MEASURES = {"davis": "J&F-Mean", "vip": "mIoU", "jhmdb": "PCK@0.2"}
"""Evaluation task and the key of its score."""
TITLES = {"davis": "J&F (DAVIS)", "vip": "part mIoU (VIP)", "jhmdb": "PCK@0.2 (JHMDB)"}


@dataclass(frozen=True)
class Variant:
    """A way to train, or random weights."""

    name: str
    title: str
    options: tuple[str, ...] = ()
    """Command-line options beside those of the preset."""
    trained: bool = True


VARIANTS = (
    Variant("random", "random weights", trained=False),
    Variant(
        "no-auxiliary",
        "no auxiliary branch",
        ("--data.sandwich.auxiliary", "", "--model.auxiliary_branch", "false"),
    ),
    Variant("past-only", "past only", ("--data.sandwich.auxiliary", "past")),
    Variant("no-squeeze", "both, without squeeze", ("--model.loss.squeeze", "0")),
    Variant("full", "full"),
)
VARIANTS_ON_REAL_CLIPS = ("random", "no-auxiliary", "full")

ORDERINGS = (
    ("past-only", "no-auxiliary"),
    ("no-squeeze", "no-auxiliary"),
    ("full", "no-auxiliary"),
    ("full", "past-only"),
    ("full", "no-squeeze"),
)
"""(better, worse) variant in the paper's table 3 (DAVIS J&F of ViT-S/16, 100 epochs)."""


def variant(name: str) -> Variant:
    """The variant of this name."""
    return next(variant for variant in VARIANTS if variant.name == name)


class Spread(NamedTuple):
    """Mean and standard deviation of a score over seeds; the deviation of a single seed is 0."""

    mean: float
    deviation: float
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


class Difference(NamedTuple):
    """Difference of the mean scores of two variants, with its standard error."""

    mean: float
    error: float

    @property
    def verdict(self) -> str:
        """`shows` or `is reversed` beyond twice the standard error, else `does not show`, as with a single seed."""
        if math.isnan(self.error) or abs(self.mean) <= 2 * self.error:
            return "does not show"
        return "shows" if self.mean > 0 else "is reversed"

    def __str__(self) -> str:
        """Difference and standard error in percentage points."""
        error = "" if math.isnan(self.error) else f" ± {100 * self.error:.1f}"
        return f"{100 * self.mean:+.1f}{error}"


def difference(better: Sequence[float], worse: Sequence[float]) -> Difference:
    """Difference of the means of two variants; its standard error is NaN if either has a single seed."""
    high, low = spread(better), spread(worse)
    if min(high.seeds, low.seeds) < 2:
        return Difference(high.mean - low.mean, math.nan)
    error = math.sqrt(high.deviation**2 / high.seeds + low.deviation**2 / low.seeds)
    return Difference(high.mean - low.mean, error)


def compare(table: Table, better: str, worse: str, task: str = "davis") -> Difference:
    """Difference of two variants of a table in the measure of a task."""
    return difference(*([scores[MEASURES[task]] for scores in table[name]] for name in (better, worse)))


def orderings(table: Table) -> list[tuple[str, str, Difference]]:
    """The paper's orderings by J&F of which the table has both variants."""
    return [(*pair, compare(table, *pair)) for pair in ORDERINGS if table.keys() >= set(pair)]


def paragraph(table: Table) -> str:
    """What the table's numbers say, in a few sentences."""
    runs = [scores for seeds in table.values() for scores in seeds]
    gains = {
        task: compare(table, "full", "random", task)
        for task, key in MEASURES.items()
        if all(key in scores for scores in runs)
    }
    clear = sum(gain.verdict == "shows" for gain in gains.values())
    sentences = [
        "Against random weights, full training changes the scores by "
        f"{', '.join(f'{gain} in {TITLES[task]}' for task, gain in gains.items())}: a clear gain in {clear} of "
        f"{len(gains)} measures."
    ]
    for verdict, opening in (
        ("shows", "Of the paper's orderings by J&F these show at this size"),
        ("does not show", "These do not show, the difference being within twice its standard error"),
        ("is reversed", "These are reversed"),
    ):
        pairs = [
            f"{variant(better).title} over {variant(worse).title} ({result})"
            for better, worse, result in orderings(table)
            if result.verdict == verdict
        ]
        sentences.append(f"{opening}: {'; '.join(pairs) or 'none'}.")
    return " ".join(sentences)
