"""What every evaluation task shares: its options, its output folder and its result file."""

import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, field_validator

from evaluation.backbones import Checkpoint, Precision, open_checkpoint
from pipeline.files import TEMPORARY_PREFIX, remove, write_bytes
from pipeline.outputs import claim
from pipeline.settings import BATCH_LIMIT, THREAD_LIMIT, Command, Seed, Settings, UserError
from pipeline.versions import installed_versions
from training.backbone.numerics import pin_float32

PREDICTIONS = "predictions"
SHEETS = "sheets"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"
_RECORDED_PACKAGES = ("tcore-pipeline", "torch", "numpy", "scipy", "pillow")


def _two_numbers(size: object) -> object:
    if isinstance(size, list | tuple) and len(size) != 2:
        raise ValueError("must be a height and a width, as in 480,880")
    return size


_Side = Annotated[int, Field(ge=1, le=2**14)]
Size = Annotated[tuple[_Side, _Side], BeforeValidator(_two_numbers)]
"""Height and width in pixels."""


class ReportSettings(Settings):
    """The page to look at."""

    enabled: bool = True
    """Write report.html and the contact sheets."""
    clips: int = Field(default=3, ge=0, le=1000)
    """So many of the best and of the worst sequences are shown moving."""
    attention: bool = False
    """Show what the CLS token of the last block attends to in the first frames (this project's weights and .pth)."""


class DataCommand(Command):
    """Options of everything that reads a data set."""

    data: Path
    """Root folder of the data set; nothing is written there."""
    sequences: tuple[str, ...] = ()
    """Only these sequences instead of the whole list, e.g. --sequences dog,bmx-trees."""
    workers: int = Field(default=4, ge=1, le=THREAD_LIMIT)
    """Threads that decode ahead of the network, and that score and write behind it."""
    report: ReportSettings = ReportSettings()
    """The page to look at."""


class EvaluationCommand(DataCommand):
    """Options of every task that takes weights."""

    weights: tuple[Path, ...]
    """Weights, one or several with commas: exported ones (.safetensors), the authors' (.pth), or a Dinov2 folder."""
    out: Path
    """Folder for result, predictions, contact sheets and report; an earlier result in it is replaced."""
    random_init: bool = False
    """Take only the architecture from the weights and draw random parameters: the floor to compare with."""
    seed: Seed = 0
    """Seed of the random parameters."""
    device: str = "auto"
    """Where the network and the propagation run: auto, cpu, cuda or cuda:N."""
    precision: Precision = "fp32"
    """Precision of the network: fp32 as in the protocol, or bf16. Propagation is always float32."""
    threads: int | None = Field(default=None, ge=1, le=THREAD_LIMIT)
    """CPU threads of the network; by default as many as there are cores."""
    batch_size: int = Field(default=4, ge=1, le=BATCH_LIMIT)
    """Frames that pass the network at once."""

    @field_validator("weights", mode="before")
    @classmethod
    def _one_or_several(cls, weights: object) -> object:
        return (weights,) if isinstance(weights, str | Path) else weights

    @field_validator("weights")
    @classmethod
    def _at_least_one(cls, weights: tuple[Path, ...]) -> tuple[Path, ...]:
        if not weights:
            raise ValueError("give at least one file or folder of weights")
        return weights


class ScoreCommand(DataCommand):
    """Options of scoring predictions that lie on disk."""

    predictions: Path
    """Folder with one folder of predictions for each sequence, as `python -m evaluation` writes them."""
    out: Path | None = None
    """Folder for result, contact sheets and report; without it the scores are only printed."""


def select_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the GPU where there is one.

    Raises:
        UserError: the name is unknown or there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or name == kind):
        raise UserError(f"--device {name}: allowed are auto, cpu, cuda and cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} usable GPUs; try --device cpu")
    return torch.device(name)


def checkpoint_names(paths: Iterable[Path]) -> list[str]:
    """A name for each file or folder of weights that no other one has: its own, with its folder's where needed."""
    resolved = [path.resolve() for path in paths]
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


def open_checkpoints(command: EvaluationCommand) -> list[Checkpoint]:
    """Set threads and precision and load all weights; a bad one stops everything before anything is evaluated."""
    pin_float32()
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    device = select_device(command.device)
    seed = command.seed if command.random_init else None
    return [
        open_checkpoint(path, name, device=device, random_seed=seed, precision=command.precision)
        for path, name in zip(command.weights, checkpoint_names(command.weights), strict=True)
    ]


def prepare_output(out: Path, data: Path, task: str) -> None:
    """Make `out` ready for one run of `task`: what an earlier run of it left there is removed, and nothing else.

    Raises:
        UserError: `out` lies in the data folder, is no folder, or holds another task's or somebody else's files.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"--out {out} lies inside the data folder {data}; choose a folder elsewhere")
    made = (f"{task}.json", PREDICTIONS, SHEETS, CHECKPOINTS, REPORT)
    for leftover in claim(out, f"python -m evaluation {task}", made, lambda path: _is_output(path, task)):
        remove(leftover)


def _is_output(path: Path, task: str) -> bool:
    """Whether an evaluation writes a file so called below its output folder: CHECKPOINTS has such a folder for each."""
    parts = path.parts[2:] if path.parts[0] == CHECKPOINTS else path.parts
    if len(parts) > 1 and parts[0] in (PREDICTIONS, SHEETS):
        return path.suffix in (".png", ".txt") or path.name.startswith(TEMPORARY_PREFIX)
    return parts == (f"{task}.json",)


def software() -> dict[str, Any]:
    """Versions of what computes a result."""
    return {"python": platform.python_version()} | installed_versions(_RECORDED_PACKAGES)


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_result(path: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON, atomically; NaN (nothing to average) becomes null."""
    write_bytes(path, (json.dumps(_without_nan(result), indent=2, allow_nan=False) + "\n").encode())
