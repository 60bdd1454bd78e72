"""The stages of `make bench-gpu`: their commands, their time limits, and their results in one line each."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu import is_installed
from training.metrics import METRICS, read_metrics

Figures = dict[str, Any]
_ABSENT = re.compile(r"No module named '?([\w.]+)'?\s*$")
_OWN_PACKAGES = frozenset({"benchmarks", "evaluation", "indexing", "pipeline", "tests", "training"})
_MARKED = re.compile(r"^(@|pytestmark = .*)pytest\.mark\.gpu\b", re.MULTILINE)


def gpu_tests(folder: Path, faiss: bool) -> tuple[str, ...]:
    """The files below a folder with tests marked gpu, since the others may need packages that are not there.

    Without `faiss`, those that need it are skipped; the stage of the neighbour search says that it is missing.
    """
    files = {path: path.read_text() for path in sorted(folder.rglob("test_*.py"))}
    marked = {path: content for path, content in files.items() if _MARKED.search(content)}
    return tuple(str(path) for path, content in marked.items() if faiss or "FAISS" not in content)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the stages; options are those beside the ones that every run needs."""

    clips: int
    patience: float
    """Factor of the stages' time limits."""
    steps: tuple[tuple[str, int, bool], ...]
    """Training steps that are measured: architecture, batch size, and whether compiled."""
    step: str
    reader: str
    run: str
    tests: tuple[str, ...]
    """What pytest runs."""
    profile: str
    features: str
    neighbours: str
    evaluation: str


SIZES = {
    "cuda": Sizes(  # the paper's: ViT-B at its batch of 128, ViT-S at its 256 and at 64, as on each of 4 GPUs
        clips=256,
        patience=1,
        steps=(
            *(("base", 128, False), ("base", 128, True)),
            *(("small", 64, False), ("small", 64, True), ("small", 256, True)),
        ),
        step="--precision=bf16 --steps=10",
        reader="--batch_size=64 --steps=100",
        run="--config=configs/paper-vits16-k400.yaml --train.total_batch_size=64 --train.compile=true "
        "--train.epochs=1 --train.steps_per_epoch=100 --train.log_every=20 "
        "--schedule.warmup_epochs=0 --schedule.freeze_last_layer_epochs=0",
        tests=("-m", "gpu", *gpu_tests(Path("tests"), is_installed("faiss"))),
        profile="--architecture=small --batch_size=64 --precision=bf16",
        features="--images=8192 --batch_size=256",
        neighbours="--device=gpu --rows=1281167 --block=8192 --rounds=5",
        evaluation="--batch_size=8",
    ),
    "cpu": Sizes(  # seconds on two cores, only to see that every stage runs
        clips=4,
        patience=20,
        steps=(("tiny", 1, False),),
        step="--prototypes=64 --steps=1",
        reader="--batch_size=2 --steps=2 --views.global_size=64 --views.local_size=32 --views.local_crops=2",
        run="--config=configs/tiny.yaml --train.total_batch_size=2 --train.epochs=1 "
        "--train.steps_per_epoch=2 --train.log_every=1 --schedule.warmup_epochs=0",
        tests=("tests/benchmarks/test_flops.py",),
        profile="--architecture=tiny --batch_size=1 --prototypes=64 --steps=1",
        features="--images=4 --batch_size=2 --backbone.architecture=tiny",
        neighbours="--device=cpu --rows=1000 --width=16 --block=100 --rounds=1 --budgets=0.6",
        evaluation="--size=64,96 --rounds=1 --batch_size=1 --backbone.architecture=tiny",
    ),
}


@dataclass(frozen=True)
class Stage:
    """One measurement."""

    name: str
    kind: str
    arguments: tuple[str, ...]
    """For the Python interpreter."""
    limit_s: float
    result: Path
    """File or run folder that the command writes."""


MODELS = {"tiny": "a tiny ViT", "small": "ViT-S", "base": "ViT-B"}
TESTS, READER, RUN = "tests marked gpu", "reader", "short training run"
PROFILE, FEATURES, NEIGHBOURS, EVALUATION = "profile of the step", "features", "exact neighbours", "evaluation"
METRICS_KEPT = ("step", "loss/total", "samples_per_second", "data_wait_share", "peak_memory_gb")


def step_name(architecture: str, batch_size: int, compiled: bool) -> str:
    """Name of the stage that measures a training step."""
    return f"step, {MODELS[architecture]}, batch {batch_size}{', compiled' if compiled else ''}"


def build_stages(device: str, threads: int, shards: Path, work: Path) -> list[Stage]:
    """All stages on `device` (`cuda` or `cpu`), the most important first, since the last may run out of time.

    `shards` holds clips, and `work` takes the results.
    """
    sizes = SIZES[device]

    def stage(name: str, kind: str, limit_s: float, module: str, options: str, file: str = "") -> Stage:
        result = work / (file or f"{kind}.json")
        arguments = ("-m", f"benchmarks.{module}", f"--out={result}", *options.split(" "))
        return Stage(name, kind, arguments, sizes.patience * limit_s, result)

    def step(architecture: str, batch_size: int, compiled: bool) -> Stage:
        options = f"--device={device} --architecture={architecture} --batch_size={batch_size} --compile={compiled}"
        name, file = step_name(architecture, batch_size, compiled), f"step-{architecture}-{batch_size}-{compiled}.json"
        return stage(name, "step", 90 if compiled else 45, "train", f"{options} {sizes.step}", file)

    def reading(name: str, limit_s: float, options: str) -> Stage:
        made = stage(name, name, limit_s, name, f"--threads={threads} {options}")
        return replace(made, arguments=(*made.arguments, f"--shards={shards}"))

    launch = ("-m", "training.launch", "--config_file=configs/accelerate/single.yaml", "training/pretrain.py")
    run = (*launch, f"--data.shards={shards}", f"--out={work / 'run'}", f"--data.threads={threads}", *sizes.run.split())
    report = work / "tests.xml"
    pytest = ("-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    steps = [step(*chosen) for chosen in sizes.steps]
    return [
        *steps[:4],
        stage(PROFILE, "profile", 60, "profile_step", f"--device={device} {sizes.profile}"),
        reading(READER, 60, f"--device={device} {sizes.reader}"),
        Stage(RUN, "run", run, sizes.patience * 120, work / "run"),
        Stage(TESTS, "tests", (*pytest, f"--junitxml={report}", *sizes.tests), sizes.patience * 150, report),
        reading(FEATURES, 45, sizes.features),
        stage(NEIGHBOURS, "neighbours", 75, "knn", sizes.neighbours),
        stage(EVALUATION, "evaluation", 60, "evaluation", f"--device={device} {sizes.evaluation}"),
        *steps[4:],
    ]


def read_figures(stage: Stage) -> Figures:
    """The result of a stage, without machine and versions, which all share; empty if there is none."""
    if stage.kind == "run":
        if not (stage.result / METRICS).is_file() or not (metrics := read_metrics(stage.result)):
            return {}
        lines = {"first": metrics[0], "last": metrics[-1]}
        return {name: {key: line[key] for key in METRICS_KEPT} for name, line in lines.items()}
    if not stage.result.is_file():
        return {}
    if stage.kind == "tests":
        suite = next(ElementTree.parse(stage.result).iter("testsuite"))
        return {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    figures: Figures = json.loads(stage.result.read_text())
    return {key: value for key, value in figures.items() if key not in ("machine", "versions")}


def absent_package(output: str) -> str | None:
    """The missing third-party package that ended a program with this output, if that is the reason."""
    result = _ABSENT.search(output.rstrip())
    return result[1] if result and result[1].split(".")[0] not in _OWN_PACKAGES else None


def passed_tests(figures: Figures) -> int:
    """Number of tests that passed."""
    return int(figures["tests"] - figures["failures"] - figures["errors"] - figures["skipped"])


def _describe_tests(figures: Figures) -> str:
    return f"{passed_tests(figures)} passed, {figures['failures']} failed, {figures['errors']} errors, " + (
        f"{figures['skipped']} skipped"
    )


def _describe_profile(figures: Figures) -> str:
    first = figures["largest"][0]
    idle = f", GPU idle {100 * figures['idle_share']:.0f} %" if "idle_share" in figures else ""
    return (
        f"{figures['launches_per_step']:.0f} launches and {figures['waits_per_step']:.1f} waits a step{idle}; largest "
        f"kernel {100 * first['share']:.0f} %: {first['name'][:60]}"
    )


def _describe_step(figures: Figures) -> str:
    parts = [f"{1000 * figures['seconds']:.0f} ms", f"{figures['peak_gb']:.1f} GB"]
    if "mfu" in figures:
        parts.append(f"MFU {100 * figures['mfu']:.0f} %")
    if "projected_hours" in figures:
        parts.append(f"the paper's epochs in {figures['projected_hours']:.1f} h")
    return ", ".join(parts)


def _describe_run(figures: Figures) -> str:
    first, last = figures["first"], figures["last"]
    return (
        f"{last['samples_per_second']:.0f} samples/s, {100 * last['data_wait_share']:.1f} % of the time waiting for "
        f"data, {last['peak_memory_gb']:.1f} GB, loss {first['loss/total']:.2f} to {last['loss/total']:.2f} "
        f"in {last['step']} steps"
    )


def _describe_neighbours(figures: Figures) -> str:
    speed = "{queries_per_second:.0f} queries/s over {rows} x {width}".format(**figures)
    if figures["device"] == "cpu":
        return speed
    agree = 100 * figures["agreement_with_cpu"]
    return f"{speed}, ImageNet in {figures['imagenet_gpu_seconds']:.0f} s, {agree:.2f} % those of the CPU"


def _describe_evaluation(figures: Figures) -> str:
    ways = ("features, batched", "features, batched, bf16", "propagation")
    return "; ".join(f"{name}: {figures[name]:.1f} ms" for name in ways) + " a frame"


DESCRIPTIONS: dict[str, Callable[[Figures], str]] = {
    "tests": _describe_tests,
    "profile": _describe_profile,
    "step": _describe_step,
    "reader": lambda figures: "{samples_per_second:.0f} samples/s, {threads} CPU threads".format(**figures),
    "run": _describe_run,
    "features": lambda figures: "{images_per_second:.0f} images/s".format(**figures),
    "neighbours": _describe_neighbours,
    "evaluation": _describe_evaluation,
}


def describe(record: dict[str, Any]) -> str:
    """One line on the record of a stage: its figures, and the reason if it is not done."""
    figures = DESCRIPTIONS[record["kind"]](record["figures"]) if record["figures"] else ""
    if record["status"] == "done":
        return figures
    if record["status"] == "too slow":
        return f"stopped after {record['seconds']:.0f} s"
    reason = record["reason"].splitlines()[-1] if record["reason"] else ""
    return "; ".join(part for part in (figures, f"{record['status']}{f': {reason}' if reason else ''}") if part)
