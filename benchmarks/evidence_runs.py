"""The runs of `make evidence`: commands as a user types them, several at a time, each on cores of its own.

A run's folder gets `run.json` last: where that is, the run is finished. Training that was interrupted goes on from its
checkpoint.
"""

import json
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.evidence_rows import MEASURES, Row, final_losses
from benchmarks.programs import Programs
from evaluation.during_training import LOG
from pipeline.files import as_json, write_bytes
from pipeline.settings import UserError
from training.checkpoint import checkpoints
from training.metrics import METRICS, read_metrics

PRESET = Path("configs/tiny.yaml")
FINISHED = "run.json"
POLL_S = 2.0
EVALUATION_SHARE = 0.2
"""Share of a run's time that its evaluation takes; untrained weights take only that."""

Words = tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """Where a run's clips come from, and how it is scored."""

    name: str
    shards: Path
    held_out: dict[str, Path]
    """Data set of each evaluation task."""
    size: tuple[int, int]
    """Height and width of the network's input."""

    def evaluation(self, task: str) -> Words:
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
    """A row of a scene with one seed."""

    scene: Scene
    row: Row
    seed: int
    steps: int
    points: int
    """Scores taken during training, for the curve; 0: none."""
    folder: Path
    architecture: Path
    """Weights of the same architecture, where the row is not trained."""

    @property
    def name(self) -> str:
        """For the progress line."""
        return f"{self.scene.name}: {self.row.title}, seed {self.seed}"

    @property
    def weights(self) -> Path:
        """What is scored, or for random weights: what gives the architecture."""
        return self.folder / "teacher.safetensors" if self.row.trained else self.architecture

    @property
    def is_finished(self) -> bool:
        """Whether all of it is done."""
        return (self.folder / FINISHED).is_file()

    def done(self) -> float:
        """Share of the run that is done, by its time."""
        if self.is_finished:
            return 1.0
        if not (self.folder / "training" / METRICS).is_file():
            return 0.0
        lines = read_metrics(self.folder / "training")
        return (1 - EVALUATION_SHARE) * lines[-1]["step"] / self.steps if lines else 0.0

    @property
    def cost(self) -> float:
        """Its time over that of a run with training."""
        return 1.0 if self.row.trained else EVALUATION_SHARE


def training(run: Run, epochs: int) -> Words:
    """The command that trains a run."""
    curve: Words = ()
    if run.points:
        size = ",".join(map(str, run.scene.size))
        davis = str(run.scene.held_out["davis"])
        curve = ("--eval.davis", davis, "--eval.size", size, "--eval.every", str(run.steps // run.points))
    return (
        *("python", "-m", "training.launch", "--config_file", "configs/accelerate/single.yaml", "training/pretrain.py"),
        *("--config", str(PRESET), "--data.shards", str(run.scene.shards), "--out", str(run.folder / "training")),
        *("--data.seed", str(run.seed), "--train.seed", str(run.seed)),
        *("--train.steps_per_epoch", str(run.steps // epochs)),
        *curve,
        *run.row.options,
    )


def commands(run: Run, epochs: int) -> Iterator[Words]:
    """The commands of a run, in order; each is made when the one before has ended."""
    if run.row.trained:
        yield training(run, epochs)
        newest = checkpoints(run.folder / "training")[-1]
        yield ("python", "-m", "training.export", str(newest), str(run.weights))
    untrained = () if run.row.trained else ("--random_init", "--seed", str(run.seed))
    for task in run.scene.held_out:
        yield (
            *("python", "-m", "evaluation", task, *run.scene.evaluation(task)),
            *("--weights", str(run.weights), "--out", str(run.folder / task), *untrained),
        )


def outcome(run: Run, seconds: float) -> dict[str, Any]:
    """What a run's folder says, once its commands have ended."""
    scores = {}
    for task in run.scene.held_out:
        record = json.loads((run.folder / task / f"{task}.json").read_text())
        scores[MEASURES[task]] = record["scores"][MEASURES[task]]
    result: dict[str, Any] = {"seed": run.seed, "scores": scores, "seconds": round(seconds, 1)}
    if run.row.trained:
        lines = read_metrics(run.folder / "training")
        health = {key: value for key, value in lines[-1].items() if key.startswith(("target_entropy/", "features/"))}
        result |= {"losses": final_losses(lines), "health": health}
        result["loss_curve"] = [[line["step"], line["loss/total"]] for line in lines]
    if run.points:
        logged = [json.loads(line) for line in (run.folder / "training" / LOG).read_text().splitlines()]
        result["curve"] = [[line["step"], line["scores"][MEASURES["davis"]]] for line in logged]
    return result


def run_logged(programs: Programs, words: Words, log: Path) -> None:
    """Run a command to its end; the command and what it prints go to the end of `log`.

    Raises:
        UserError: it failed, or everything is being stopped.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        stream.write(f"$ {' '.join(words)}\n")
    if status := programs.run(words, log):
        raise UserError(f"'{' '.join(words[2:4])}' failed with status {status}; see {log}")
    if status is None:
        raise UserError("stopped")


def core_groups(cores: Sequence[int], lanes: int) -> list[set[int]]:
    """Cores dealt to at most so many lanes, each of which has one at least."""
    lanes = max(1, min(lanes, len(cores)))
    return [set(cores[lane::lanes]) for lane in range(lanes)]


def do_all(runs: Sequence[Run], epochs: int, lanes: int, programs: Programs, say: Callable[[str], None]) -> None:
    """Do what is not finished of the runs, `lanes` at a time; a failure or Ctrl-C stops them all.

    Raises:
        UserError: a program failed.
    """
    groups: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for group in core_groups(sorted(os.sched_getaffinity(0)), lanes):
        groups.put(group)

    def do(run: Run) -> None:
        started = time.perf_counter()
        cores = groups.get()
        try:
            os.sched_setaffinity(0, cores)  # of this thread, and so of the programs that it starts
            for words in commands(run, epochs):
                run_logged(programs, words, run.folder / "log.txt")
        finally:
            groups.put(cores)
        result = outcome(run, time.perf_counter() - started)
        write_bytes(run.folder / FINISHED, as_json(result))

    missing = [run for run in runs if not run.is_finished]
    with (
        tqdm(total=sum(run.cost for run in missing), bar_format=BAR, smoothing=0, desc="evidence") as bar,
        ThreadPoolExecutor(groups.qsize()) as pool,
        programs.stopped_on_failure(),
    ):
        waiting = {pool.submit(do, run): run for run in missing}
        try:
            while waiting:
                ended, _ = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                    say(summary(waiting.pop(future)))
                bar.n = sum(run.cost * run.done() for run in missing)
                bar.refresh()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


BAR = "{desc}: {percentage:3.0f} % |{bar:30}| {elapsed} gone, about {remaining} left"


def summary(run: Run) -> str:
    """One line on a finished run."""
    result = json.loads((run.folder / FINISHED).read_text())
    scores = ", ".join(f"{key} {100 * value:.1f}" for key, value in result["scores"].items())
    return f"{run.name}: {scores} ({result['seconds']:.0f} s)"
