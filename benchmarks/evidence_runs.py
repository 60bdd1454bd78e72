"""The runs of `make evidence`: commands as a user types them, several at a time, each on its own cores.

A run's folder gets `run.json` last and is then finished. Interrupted training continues from its checkpoint.
"""

import json
import os
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.evidence_variants import MEASURES, Variant
from benchmarks.programs import Programs
from evaluation.during_training import LOG
from pipeline.files import as_json, write_bytes
from pipeline.settings import UserError
from training.checkpoint import checkpoints
from training.metrics import read_metrics

PRESET = Path("configs/tiny.yaml")
FINISHED = "run.json"

Argv = tuple[str, ...]


@dataclass(frozen=True)
class EvalSetup:
    """A training set, and how the networks trained on it are scored."""

    name: str
    shards: Path
    held_out: dict[str, Path]
    """Dataset of each evaluation task."""
    size: tuple[int, int]
    """Height and width of the network's input."""

    def evaluation(self, task: str) -> Argv:
        """Options of an evaluation task."""
        height, width = self.size
        sizes = {
            "davis": ("--size", f"{height},{width}"),
            "vip": ("--long_side", str(width), "--side_multiple", "8"),
            "jhmdb": ("--size", f"{height},{height}"),
        }
        return ("--data", str(self.held_out[task]), "--report.enabled", "false", *sizes[task])


@dataclass(frozen=True)
class Run:
    """A variant with one seed."""

    setup: EvalSetup
    variant: Variant
    seed: int
    steps: int
    points: int
    """Scores taken during training, for the curve; 0: none."""
    folder: Path
    architecture: Path
    """Weights of the same architecture, for variants that are not trained."""

    @property
    def weights(self) -> Path:
        """The weights that are scored; for random weights those that define the architecture."""
        return self.folder / "teacher.safetensors" if self.variant.trained else self.architecture

    @property
    def is_finished(self) -> bool:
        """Whether the run is trained and scored."""
        return (self.folder / FINISHED).is_file()


def training(run: Run, epochs: int) -> Argv:
    """The command that trains a run."""
    curve: Argv = ()
    if run.points:
        size = ",".join(map(str, run.setup.size))
        davis = str(run.setup.held_out["davis"])
        curve = ("--eval.davis", davis, "--eval.size", size, "--eval.every", str(run.steps // run.points))
    return (
        *("python", "-m", "training.launch", "--config_file", "configs/accelerate/single.yaml", "training/pretrain.py"),
        *("--config", str(PRESET), "--data.shards", str(run.setup.shards), "--out", str(run.folder / "training")),
        *("--data.seed", str(run.seed), "--train.seed", str(run.seed)),
        *("--train.steps_per_epoch", str(run.steps // epochs)),
        *curve,
        *run.variant.options,
    )


def commands(run: Run, epochs: int) -> Iterator[Argv]:
    """The commands of a run in order; each is built when the one before has ended."""
    if run.variant.trained:
        yield training(run, epochs)
        newest = checkpoints(run.folder / "training")[-1]
        yield ("python", "-m", "training.export", str(newest), str(run.weights))
    untrained = () if run.variant.trained else ("--random_init", "--seed", str(run.seed))
    for task in run.setup.held_out:
        yield (
            *("python", "-m", "evaluation", task, *run.setup.evaluation(task)),
            *("--weights", str(run.weights), "--out", str(run.folder / task), *untrained),
        )


def result_of(run: Run, seconds: float) -> dict[str, Any]:
    """Content of a run's `run.json`, once its commands have ended."""
    scores = {}
    for task in run.setup.held_out:
        record = json.loads((run.folder / task / f"{task}.json").read_text())
        scores[MEASURES[task]] = record["scores"][MEASURES[task]]
    result: dict[str, Any] = {"seed": run.seed, "scores": scores, "seconds": round(seconds, 1)}
    if run.variant.trained:
        lines = read_metrics(run.folder / "training")
        last = lines[-1]
        result["losses"] = {key.removeprefix("loss/"): value for key, value in last.items() if key.startswith("loss/")}
        result["health"] = {key: last[key] for key in last if key.startswith(("target_entropy/", "features/"))}
        result["loss_curve"] = [[line["step"], line["loss/total"]] for line in lines]
    if run.points:
        logged = [json.loads(line) for line in (run.folder / "training" / LOG).read_text().splitlines()]
        result["curve"] = [[line["step"], line["scores"][f"davis/{MEASURES['davis']}"]] for line in logged]
    return result


def run_logged(programs: Programs, argv: Argv, log: Path) -> None:
    """Run a command to its end; the command and its output are appended to `log`.

    Raises:
        UserError: it failed, or everything is being stopped.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        stream.write(f"$ {' '.join(argv)}\n")
    if status := programs.run(argv, log):
        raise UserError(f"'{' '.join(argv[2:4])}' failed with status {status}; see {log}")
    if status is None:
        raise UserError("stopped")


def core_groups(cores: Sequence[int], groups: int) -> list[set[int]]:
    """Cores divided among at most so many groups, each of at least one core."""
    groups = max(1, min(groups, len(cores)))
    return [set(cores[group::groups]) for group in range(groups)]


def run_all(runs: Sequence[Run], epochs: int, max_parallel: int, programs: Programs) -> None:
    """Do the runs that are not finished, several at a time; a failure or Ctrl-C stops all of them.

    Raises:
        UserError: a program failed.
    """
    groups: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for group in core_groups(sorted(os.sched_getaffinity(0)), max_parallel):
        groups.put(group)

    def complete(run: Run) -> str:
        started = time.perf_counter()
        cores = groups.get()
        try:
            os.sched_setaffinity(0, cores)  # of this thread, and so of the programs that it starts
            for argv in commands(run, epochs):
                run_logged(programs, argv, run.folder / "log.txt")
        finally:
            groups.put(cores)
        result = result_of(run, time.perf_counter() - started)
        write_bytes(run.folder / FINISHED, as_json(result))
        scores = ", ".join(f"{key} {100 * value:.1f}" for key, value in result["scores"].items())
        return f"{run.setup.name}: {run.variant.title}, seed {run.seed}: {scores} ({result['seconds']:.0f} s)"

    missing = [run for run in runs if not run.is_finished]
    with (
        tqdm(total=len(missing), desc="evidence", unit="run", smoothing=0) as bar,
        ThreadPoolExecutor(groups.qsize()) as pool,
        programs.stopped_on_failure(),
    ):
        futures = [pool.submit(complete, run) for run in missing]
        try:
            for future in as_completed(futures):
                bar.write(future.result())
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
