"""Options, output folder and result file of the programs, for any benchmark."""

import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, BeforeValidator, Field, create_model

from evaluation.backbones import Checkpoint, Precision, is_function, open_checkpoint
from evaluation.benchmark import Benchmark, LabelPropagation, Task
from evaluation.protocols import T_CORE, overlaid, preset
from pipeline.files import TEMPORARY_PREFIX, remove, write_bytes
from pipeline.outputs import claim
from pipeline.settings import BATCH_LIMIT, THREAD_LIMIT, Command, Seed, Settings, UserError
from pipeline.versions import installed_versions
from training.backbone.device import default_device
from training.backbone.families import BackboneOptions
from training.backbone.numerics import pin_float32

PROGRAM = "python -m evaluation"
PREDICTIONS = "predictions"
SHEETS = "sheets"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"
_RECORDED_PACKAGES = ("tcore-pipeline", "torch", "numpy", "scipy", "pillow")


def _one_or_several(weights: object) -> object:
    return (weights,) if isinstance(weights, str | Path) else weights


def _at_least_one(weights: tuple[Path, ...]) -> tuple[Path, ...]:
    if not weights:
        raise ValueError("give at least one file or folder of weights")
    return weights


Weights = Annotated[tuple[Path, ...], BeforeValidator(_one_or_several), AfterValidator(_at_least_one)]
"""One or several files or folders of weights; also the type of options."""


class ReportSettings(Settings):
    """The report and the contact sheets."""

    enabled: bool = True
    """Write report.html and the contact sheets."""
    clips: int = Field(default=3, ge=0, le=1000)
    """Number of best and of worst sequences that are shown as animations."""
    attention: bool = False
    """Show the attention of the last block's CLS token in the first frames (not of DINOv3, nor of a function)."""


class DataCommand(Command):
    """Options of all programs, beside those of the data set and the scoring."""

    workers: int = Field(default=4, ge=1, le=THREAD_LIMIT)
    """Threads that decode ahead of the network, and that score and write behind it."""
    report: ReportSettings = ReportSettings()
    """The report and the contact sheets."""
    compare: tuple[Path, ...] = ()
    """Result files of earlier runs on this benchmark, to be shown in the same tables."""


class WeightsCommand(Command):
    """Options of programs that run frozen weights."""

    weights: Weights
    """Weights, several separated by commas: exports, files (.pth, .safetensors) of other projects, folders of
    transformers, or package.module:function (docs/weights.md)."""
    backbone: BackboneOptions = BackboneOptions()
    """What the weights do not say."""
    random_init: bool = False
    """Take only the architecture from the weights and draw random parameters, as a baseline."""
    seed: Seed = 0
    """Seed of the random parameters."""
    device: str = "auto"
    """Where the network and the propagation run: auto, cpu, cuda or cuda:N."""
    precision: Precision = "fp32"
    """Precision of the network: fp32 as in the protocol, or bf16. Propagation is always float32."""
    threads: int | None = Field(default=None, ge=1, le=THREAD_LIMIT)
    """CPU threads of the network; default: the number of cores."""
    batch_size: int = Field(default=4, ge=1, le=BATCH_LIMIT)
    """Frames that pass the network at once."""


class EvaluationCommand(DataCommand, WeightsCommand):
    """Options of scoring weights, beside those of the benchmark."""

    out: Path
    """Folder for result, predictions, contact sheets and report; an earlier result in it is replaced."""
    protocol: str = T_CORE
    """Preset of the options of label propagation: t-core; for masks of objects also dino or dinov3."""


class ScoreCommand(DataCommand):
    """Options of scoring predictions from disk, beside those of the benchmark."""

    predictions: Path
    """Folder with a folder of predictions for each sequence, as `python -m evaluation` writes them."""
    out: Path | None = None
    """Folder for result, contact sheets and report; without it the scores are only printed."""


CommandT = TypeVar("CommandT", bound=DataCommand)
SettingsT = TypeVar("SettingsT", bound=Settings)


def evaluation_command(benchmark: Benchmark, program: str = PROGRAM) -> type[EvaluationCommand]:
    """The options of scoring weights on a benchmark."""
    doc = f"Score frozen features on {benchmark.title} by label propagation ({benchmark.measures})."
    parts = (benchmark.dataset, benchmark.propagation)
    return _with_parts(EvaluationCommand, benchmark, parts, f"{program} {benchmark.name}", doc)


def score_command(benchmark: Benchmark, program: str = PROGRAM) -> type[ScoreCommand]:
    """The options of scoring predictions for a benchmark."""
    doc = f"Score predictions from disk on {benchmark.title} ({benchmark.measures})."
    return _with_parts(ScoreCommand, benchmark, (benchmark.dataset,), f"{program} score {benchmark.name}", doc)


def _with_parts(
    base: type[CommandT], benchmark: Benchmark, parts: Iterable[type[Settings]], program: str, doc: str
) -> type[CommandT]:
    """A command with the fields of `base` and of some parts, and the group `scoring` if it has options."""
    fields: dict[str, Any] = {
        name: (info.annotation, info) for part in parts for name, info in part.model_fields.items()
    }
    if benchmark.scoring.model_fields:
        fields["scoring"] = (benchmark.scoring, benchmark.scoring())
    command = create_model(base.__name__, __base__=base, __doc__=doc, __module__=__name__, **fields)
    command.program = program
    return command


def part(command: Command, kind: type[SettingsT]) -> SettingsT:
    """The settings of one part from a command that has them among its own."""
    return kind(**{name: getattr(command, name) for name in kind.model_fields})


def chosen_propagation(benchmark: Benchmark, command: EvaluationCommand) -> LabelPropagation[Any]:
    """The settings of the command's protocol, with the options that the command was given on top.

    Raises:
        UserError: the benchmark has no such protocol.
    """
    kind = benchmark.propagation
    own = preset(kind, kind.protocols, command.protocol, benchmark.title)
    return overlaid(own, command.model_dump(include=set(kind.model_fields), exclude_unset=True))


def bind(benchmark: Benchmark, command: DataCommand) -> Task:
    """The benchmark on the data folder, and with the scoring, that a command names."""
    scoring = getattr(command, "scoring", None) or benchmark.scoring()
    return Task(benchmark.name, benchmark.title, part(command, benchmark.dataset), scoring)


def select_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the GPU where there is one.

    Raises:
        UserError: the name is unknown, or there is no such GPU or none that PyTorch can use.
    """
    if name == "auto":
        return torch.device(default_device())
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or name == kind):
        raise UserError(f"--device {name}: allowed are auto, cpu, cuda and cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} usable GPUs; try --device cpu")
    return torch.device(name)


def checkpoint_names(paths: Iterable[Path]) -> list[str]:
    """A unique name for each file, folder or function: its own, with that of its folder where needed."""
    resolved = [Path(str(path).rpartition(":")[2]) if is_function(path) else path.resolve() for path in paths]
    names: list[str] = []
    for path in resolved:
        name = path.stem
        if [other.stem for other in resolved].count(name) > 1:
            name = f"{path.parent.name}-{name}"
        number = 2
        while (unique := name if number == 2 and name not in names else f"{name}-{number}") in names:
            number += 1
        names.append(unique)
    return names


def open_checkpoints(command: WeightsCommand) -> list[Checkpoint]:
    """Set threads and numerics and load all weights, so that bad ones are reported before anything is evaluated."""
    pin_float32()
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    device = select_device(command.device)
    seed = command.seed if command.random_init else None
    return [
        open_checkpoint(
            path, name, device=device, options=command.backbone, random_seed=seed, precision=command.precision
        )
        for path, name in zip(command.weights, checkpoint_names(command.weights), strict=True)
    ]


def prepare_output(out: Path, data: Path, task: str) -> None:
    """Prepare `out` for a run of `task`: remove the output of an earlier run of it, and nothing else.

    Raises:
        UserError: `out` is in the data folder, is not a folder, or holds files of another task or of the user.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"--out {out} is inside the data folder {data}; choose a folder elsewhere")
    made = (f"{task}.json", PREDICTIONS, SHEETS, CHECKPOINTS, REPORT)
    for leftover in claim(out, f"{PROGRAM} {task}", made, lambda path: _is_output(path, task)):
        remove(leftover)


def _is_output(path: Path, task: str) -> bool:
    """Whether an evaluation writes a file of this name, at the top or in the folder of a checkpoint."""
    parts = path.parts[2:] if path.parts[0] == CHECKPOINTS else path.parts
    if len(parts) > 1 and parts[0] in (PREDICTIONS, SHEETS):
        return path.suffix in (".png", ".txt") or path.name.startswith(TEMPORARY_PREFIX)
    return parts == (f"{task}.json",)


def software() -> dict[str, Any]:
    """Versions of Python and of the packages that compute a result."""
    return {"python": platform.python_version()} | installed_versions(_RECORDED_PACKAGES)


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_result(path: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON, atomically; NaN and infinity become null."""
    write_bytes(path, (json.dumps(_without_nan(result), indent=2, allow_nan=False) + "\n").encode())
