"""`python -m benchmarks.adapt`: which metrics show that training loses the features of a given backbone.

A small ViT is trained on the clips of `make demo`. Its teacher is then the source of three runs on the same clips: at a
tenth of the rate that it was trained with, at the full rate, and at the full rate without freeze and warm-up. Prints
for each the effective rank of the CLS tokens, KoLeo and the loss. Run again, it continues.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.demo import PRETRAIN, Stages
from benchmarks.markdown import table
from benchmarks.result import write_result
from pipeline.settings import Command, run_command
from training.checkpoint import checkpoints
from training.metrics import read_metrics

VARIANTS = {
    "a tenth of the rate": ("--schedule.base_lr", "0.0016", "--model.freeze_backbone_epochs", "1"),
    "the full rate": ("--model.freeze_backbone_epochs", "1"),
    "the full rate, no freeze, no warm-up": ("--schedule.warmup_epochs", "0"),
}
"""Options of the runs; `configs/tiny.yaml` has the full rate, 0.016, and a warm-up of two epochs."""
COLUMNS = ("rank, first", "rank, lowest", "rank, last", "KoLeo, first", "KoLeo, highest", "KoLeo, last", "loss, last")


class AdaptCommand(Command):
    """Train a source and begin runs with it; print what the metrics show."""

    program: ClassVar[str] = "python -m benchmarks.adapt"

    shards: Path = Path("demo/shards/kinetics")
    """Shards of clips; `make demo` makes them."""
    runs: Path = Path("demo/adapt")
    """Folder for the runs."""
    out: Path = Path("benchmarks/results/adapt.json")
    """File for the result."""


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What `COLUMNS` name, from the log lines of a run."""
    ranks, koleo = ([line[name] for line in lines] for name in ("features/effective_rank", "loss/koleo"))
    values = (ranks[0], min(ranks), ranks[-1], koleo[0], max(koleo), koleo[-1], lines[-1]["loss/total"])
    return dict(zip(COLUMNS, values, strict=True))


def main(command: AdaptCommand) -> None:
    """Train, then print and write the table."""
    stages, source = Stages(), command.runs / "source.safetensors"
    train = (*PRETRAIN, "--data.shards", command.shards, "--train.log_every", "5")
    if not source.exists():
        stages.run("the source", *train, "--out", command.runs / "source", "--train.epochs", "5")
        newest = checkpoints(command.runs / "source")[-1]
        stages.run("export", "python", "-m", "training.export", newest, source)
    figures = {}
    for name, options in VARIANTS.items():
        out = command.runs / name.replace(",", "").replace(" ", "-")
        stages.run(name, *train, "--out", out, "--model.init", source, "--train.epochs", "3", *options)
        figures[name] = summary(read_metrics(out))
    write_result(command.out, {"runs": figures})
    rows = ([name, *(f"{value:.2f}" for value in values.values())] for name, values in figures.items())
    print(table(["run", *COLUMNS], rows))


if __name__ == "__main__":
    run_command(AdaptCommand, main)
