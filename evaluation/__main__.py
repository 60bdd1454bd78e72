"""Run an evaluation task: `python -m evaluation TASK --help`."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from evaluation import davis
from evaluation.command import EvaluationCommand
from pipeline.settings import run_command

TASKS: dict[str, tuple[type[EvaluationCommand], Callable[[Any], int]]] = {
    davis.TASK: (davis.DavisCommand, davis.run),
}


def main() -> NoReturn:
    """Hand the rest of the command line to the task that it names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    usage = f"usage: python -m evaluation {{{','.join(TASKS)}}} [options]; TASK --help lists a task's options"
    if name in ("-h", "--help"):
        print(usage)
        raise SystemExit(0)
    if name not in TASKS:
        print(f"error: {f'unknown task {name}' if name else 'no task given'}; {usage}", file=sys.stderr)
        raise SystemExit(2)
    del sys.argv[1]
    run_command(*TASKS[name])


if __name__ == "__main__":
    main()
