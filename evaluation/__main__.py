"""Run an evaluation task: `python -m evaluation TASK --help`."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from evaluation.command import EvaluationCommand, ScoreCommand
from evaluation.davis import Davis, DavisCommand, DavisScoreCommand
from evaluation.jhmdb import Jhmdb, JhmdbCommand, JhmdbScoreCommand
from evaluation.program import run_predictions, run_weights
from evaluation.task import Task
from evaluation.vip import Vip, VipCommand, VipScoreCommand
from pipeline.settings import run_command

TASKS: dict[str, tuple[Callable[[Any], Task[Any]], type[EvaluationCommand], type[ScoreCommand]]] = {
    "davis": (Davis, DavisCommand, DavisScoreCommand),
    "vip": (Vip, VipCommand, VipScoreCommand),
    "jhmdb": (Jhmdb, JhmdbCommand, JhmdbScoreCommand),
}
_NAMES = "{" + ",".join(TASKS) + "}"
USAGE = (
    f"usage: python -m evaluation {_NAMES} --data DIR --weights FILE[,FILE...] --out DIR [options]\n"
    f"       python -m evaluation score {_NAMES} --data DIR --predictions DIR [--out DIR] [options]\n"
    "davis: masks of objects (J&F); vip: masks of body parts (mIoU); jhmdb: joints (PCK). Each carries the labels of\n"
    "the first frame on by the weights' features; score takes labels that somebody predicted.\n"
    "TASK --help lists a task's options"
)


def main() -> NoReturn:
    """Hand the rest of the command line to the task that it names."""
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    score = words[:1] == ["score"]
    name = next(iter(words[int(score) :]), "")
    if name not in TASKS:
        problem = f"unknown task {name}" if name and not name.startswith("-") else "no task given"
        print(f"error: {problem}; allowed are {_NAMES} and score {_NAMES}; --help says more", file=sys.stderr)
        raise SystemExit(2)
    del sys.argv[1 : 2 + int(score)]
    task, evaluation, scoring = TASKS[name]
    if score:
        run_command(scoring, lambda command: run_predictions(task(command), command))
    run_command(evaluation, lambda command: run_weights(task(command), command))


if __name__ == "__main__":
    main()
