"""What `make bench-gpu` measures: each stage's command, its limit, and what its result file says in one line."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from training.metrics import METRICS, read_metrics

Figures = dict[str, Any]
_ABSENT = re.compile(r"No module named '?([\w.]+)'?\s*$")
_OURS = frozenset({"benchmarks", "evaluation", "indexing", "pipeline", "tests", "training"})


@dataclass(frozen=True)
class Sizes:
    """How large the stages are."""

    clips: int
    threads: int
    patience: float
    """Factor of the stages' time limits."""
    steps: tuple[tuple[str, int, bool], ...]
    """Architecture, batch size and whether compiled, of each training step that is measured."""
    step: tuple[str, ...]
    reader: tuple[str, ...]
    run: tuple[str, ...]
    tests: str
    """Folder of the tests that are run."""
    features: tuple[str, ...]
    neighbours: tuple[str, ...]
    evaluation: tuple[str, ...]
    """Options of the stages beside those that follow from the fields above."""


@dataclass(frozen=True)
class Stage:
    """One measurement."""

    name: str
    kind: str
    arguments: tuple[str, ...]
    """For the Python interpreter."""
    limit_s: float
    result: Path
    """File or run folder that the command leaves."""


def gpu_sizes(threads: int) -> Sizes:
    """The sizes of the paper: ViT-B at its batch of 128, ViT-S at its 256 and at 64, a fourth as on each of 4 GPUs."""
    return Sizes(
        clips=256,
        threads=threads,
        patience=1,
        steps=(
            ("base", 128, False),
            ("base", 128, True),
            ("small", 64, False),
            ("small", 64, True),
            ("small", 256, True),
        ),
        step=("--precision=bf16", "--steps=10"),
        reader=("--batch_size=64", "--steps=100"),
        run=(
            *("--config=configs/paper-vits16-k400.yaml", "--train.total_batch_size=64", "--train.compile=true"),
            *("--train.epochs=1", "--train.steps_per_epoch=100", "--train.log_every=20"),
            *("--schedule.warmup_epochs=0", "--schedule.freeze_last_layer_epochs=0"),
        ),
        tests="tests",
        features=("--images=8192", "--batch_size=256"),
        neighbours=("--rows=1281167", "--block=8192", "--rounds=5"),
        evaluation=("--batch_size=8",),
    )


def tiny_sizes() -> Sizes:
    """Seconds on two CPU cores: only to see that every stage runs."""
    views = ("--views.global_size=64", "--views.local_size=32", "--views.local_crops=2")
    return Sizes(
        clips=4,
        threads=1,
        patience=20,
        steps=(("tiny", 1, False),),
        step=("--prototypes=64", "--steps=1"),
        reader=("--batch_size=2", "--steps=2", *views),
        run=(
            *("--config=configs/tiny.yaml", "--train.total_batch_size=2", "--train.epochs=1"),
            *("--train.steps_per_epoch=2", "--train.log_every=1", "--schedule.warmup_epochs=0"),
        ),
        tests="tests/evaluation",
        features=("--images=4", "--batch_size=2", "--backbone.architecture=tiny"),
        neighbours=("--rows=1000", "--width=16", "--block=100", "--rounds=1", "--budgets=0.6"),
        evaluation=("--size=64,96", "--rounds=1", "--batch_size=1", "--backbone.architecture=tiny"),
    )


MODELS = {"tiny": "a tiny ViT", "small": "ViT-S", "base": "ViT-B"}
TESTS, READER, RUN = "tests marked gpu", "reader", "short training run"
FEATURES, NEIGHBOURS, EVALUATION = "features", "exact neighbours", "evaluation"
METRICS_KEPT = ("step", "loss/total", "samples_per_second", "data_wait_share", "peak_memory_gb")


def step_name(architecture: str, batch_size: int, compiled: bool) -> str:
    """Name of the stage that measures a training step."""
    return f"step, {MODELS[architecture]}, batch {batch_size}{', compiled' if compiled else ''}"


def build_stages(sizes: Sizes, device: str, shards: Path, work: Path) -> list[Stage]:
    """All stages, those that matter most first: what the time does not suffice for is left out.

    `device` is `cuda` or `cpu`; `shards` holds clips, and `work` takes the results.
    """

    def module(name: str, file: str, *options: str) -> tuple[str, ...]:
        return ("-m", f"benchmarks.{name}", f"--out={work / file}", *options)

    def step(architecture: str, batch_size: int, compiled: bool) -> Stage:
        file = f"step-{architecture}-{batch_size}-{compiled}.json"
        options = (f"--architecture={architecture}", f"--batch_size={batch_size}", f"--compile={str(compiled).lower()}")
        arguments = module("train", file, f"--device={device}", *options, *sizes.step)
        name = step_name(architecture, batch_size, compiled)
        return Stage(name, "step", arguments, sizes.patience * (90 if compiled else 45), work / file)

    def other(name: str, kind: str, limit_s: float, module_name: str, *options: str) -> Stage:
        file = f"{kind}.json"
        return Stage(name, kind, module(module_name, file, *options), sizes.patience * limit_s, work / file)

    from_shards = (f"--shards={shards}", f"--threads={sizes.threads}")
    launch = ("-m", "training.launch", "--config_file=configs/accelerate/single.yaml", "training/pretrain.py")
    run = (*launch, f"--data.shards={shards}", f"--out={work / 'run'}", f"--data.threads={sizes.threads}", *sizes.run)
    tests = (
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        f"--junitxml={work / 'tests.xml'}",
        sizes.tests,
    )
    steps = [step(*chosen) for chosen in sizes.steps]
    return [
        *steps[:4],
        other(READER, "reader", 60, "reader", f"--device={device}", *from_shards, *sizes.reader),
        Stage(RUN, "run", run, sizes.patience * 120, work / "run"),
        Stage(TESTS, "tests", tests, sizes.patience * 150, work / "tests.xml"),
        other(FEATURES, "features", 45, "features", *from_shards, *sizes.features),
        other(
            *(NEIGHBOURS, "neighbours", 75, "knn", f"--device={'gpu' if device == 'cuda' else 'cpu'}"),
            *sizes.neighbours,
        ),
        other(EVALUATION, "evaluation", 60, "evaluation", f"--device={device}", *sizes.evaluation),
        *steps[4:],
    ]


def read_figures(stage: Stage) -> Figures:
    """What a stage left, without machine and versions, which all share; empty if it left nothing."""
    if stage.kind == "run":
        if not (stage.result / METRICS).is_file() or not (metrics := read_metrics(stage.result)):
            return {}
        lines = {"first": metrics[0], "last": metrics[-1]}
        return {which: {key: line[key] for key in METRICS_KEPT} for which, line in lines.items()}
    if not stage.result.is_file():
        return {}
    if stage.kind == "tests":
        return count_tests(stage.result)
    figures: Figures = json.loads(stage.result.read_text())
    return {key: value for key, value in figures.items() if key not in ("machine", "versions")}


def absent_package(output: str) -> str | None:
    """The package whose absence ended a program that printed `output`; None if that is not why, or if it is ours."""
    result = _ABSENT.search(output.rstrip())
    return result[1] if result and result[1].split(".")[0] not in _OURS else None


def count_tests(report: Path) -> Figures:
    """Tests of a JUnit report: how many passed and were skipped, which failed, which files need an absent package."""
    figures: Figures = {"passed": 0, "failed": [], "skipped": 0, "not_here": []}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [result for kind in ("failure", "error") if (result := case.find(kind)) is not None]
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        if bad:
            package = absent_package(bad[0].text or "")
            figures["not_here" if package else "failed"].append(f"{name}: {package}" if package else name)
        else:
            figures["passed" if case.find("skipped") is None else "skipped"] += 1
    return figures


def _say_tests(figures: Figures) -> str:
    return "{passed} passed, {skipped} skipped, {} failed, {} files need a package that is not installed".format(
        *(len(figures[kind]) for kind in ("failed", "not_here")), **figures
    )


def _say_step(figures: Figures) -> str:
    parts = [f"{1000 * figures['seconds']:.0f} ms", f"{figures['peak_gb']:.1f} GB"]
    if "mfu" in figures:
        parts.append(f"MFU {100 * figures['mfu']:.0f} %")
    if "projected_hours" in figures:
        parts.append(f"the paper's epochs in {figures['projected_hours']:.1f} h")
    return ", ".join(parts)


def _say_reader(figures: Figures) -> str:
    return "{samples_per_second:.0f} samples/s, {threads} CPU threads".format(**figures)


def _say_run(figures: Figures) -> str:
    first, last = figures["first"], figures["last"]
    return (
        f"{last['samples_per_second']:.0f} samples/s, {100 * last['data_wait_share']:.1f} % of the time waiting for "
        f"data, {last['peak_memory_gb']:.1f} GB, loss {first['loss/total']:.2f} to {last['loss/total']:.2f} "
        f"in {last['step']} steps"
    )


def _say_features(figures: Figures) -> str:
    return "{images_per_second:.0f} images/s".format(**figures)


def _say_neighbours(figures: Figures) -> str:
    message = "{queries_per_second:.0f} queries/s over {rows} x {width}".format(**figures)
    if figures["device"] == "cpu":
        return message
    agree = 100 * figures["agreement_with_cpu"]
    return f"{message}, ImageNet in {figures['imagenet_gpu_seconds']:.0f} s, {agree:.2f} % those of the CPU"


def _say_evaluation(figures: Figures) -> str:
    ways = ("features, batched", "features, batched, bf16", "propagation")
    return "; ".join(f"{name}: {figures[name]:.1f} ms" for name in ways) + " a frame"


SAY: dict[str, Callable[[Figures], str]] = {
    "tests": _say_tests,
    "step": _say_step,
    "reader": _say_reader,
    "run": _say_run,
    "features": _say_features,
    "neighbours": _say_neighbours,
    "evaluation": _say_evaluation,
}


def say(record: dict[str, Any]) -> str:
    """One line on a stage of a result: its figures, and why it is not done if it is not."""
    figures = SAY[record["kind"]](record["figures"]) if record["figures"] else ""
    if record["status"] == "done":
        return figures
    if record["status"] == "too slow":
        return f"stopped after {record['seconds']:.0f} s"
    reason = record["reason"].splitlines()[-1] if record["reason"] else ""
    return "; ".join(part for part in (figures, f"{record['status']}{f': {reason}' if reason else ''}") if part)
