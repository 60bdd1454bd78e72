"""What every evaluation task shares: its options, its output folder and its result file."""

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import AliasChoices, Field

from evaluation.backbones import Extractor, open_extractor
from pipeline.files import remove, sha256_file, write_bytes
from pipeline.settings import Command, UserError
from training.weights import read_card

PREDICTIONS = "predictions"
SHEETS = "sheets"
_MARKER = ".evaluation"
_RECORDED_PACKAGES = ("tcore-pipeline", "torch", "numpy", "scipy", "pillow")


class EvaluationCommand(Command):
    """Options of every task."""

    data: Path
    """Root folder of the data set; nothing is written there."""
    weights: Path
    """Exported backbone weights (.safetensors)."""
    out: Path
    """Folder for the result file, the predictions and the contact sheets; an earlier result in it is replaced."""
    random_init: bool = Field(default=False, validation_alias=AliasChoices("random-init", "random_init"))
    """Take only the architecture from the weights and draw random parameters: the floor to compare with."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random parameters."""
    device: str = "auto"
    """Where the network and the propagation run: auto, cpu, cuda or cuda:N."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; by default as many as there are cores."""
    batch_size: int = Field(default=4, ge=1)
    """Frames that pass the network at once."""


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


def start(command: EvaluationCommand) -> Extractor:
    """Set the number of threads and load the backbone."""
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    random_seed = command.seed if command.random_init else None
    return open_extractor(command.weights, device=select_device(command.device), random_seed=random_seed)


def prepare_output(out: Path, data: Path, task: str) -> None:
    """Make `out` ready for one run of `task`: what an earlier run of it left there is removed, and nothing else.

    Raises:
        UserError: `out` lies in the data folder, is no folder, or holds another task's or somebody else's files.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"--out {out} lies inside the data folder {data}; choose a folder elsewhere")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; it must be a folder or not exist yet")
    marker = out / _MARKER
    owner = marker.read_text() if marker.exists() else None
    leftovers = [out / name for name in (f"{task}.json", PREDICTIONS, SHEETS) if (out / name).exists()]
    if leftovers and owner != task:
        raise UserError(f"{leftovers[0]} was not made by this task; choose another --out or remove it")
    for leftover in leftovers:
        remove(leftover)
    write_bytes(marker, task.encode())


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Hex SHA-256 over the names (relative to `root`) and the bytes of some files, in any order.

    Raises:
        UserError: a file cannot be read.
    """
    try:
        lines = sorted(f"{file.relative_to(root).as_posix()} {sha256_file(file)}\n" for file in files)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def provenance(command: EvaluationCommand) -> dict[str, Any]:
    """Which weights, on what software and device: the part of a result that all tasks share."""
    return {
        "weights": {
            "path": str(command.weights),
            "sha256": sha256_file(command.weights),
            "card": read_card(command.weights),
            "random_init_seed": command.seed if command.random_init else None,
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _RECORDED_PACKAGES},
        "device": str(select_device(command.device)),
    }


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_result(path: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON, atomically; NaN (nothing to average) becomes null."""
    write_bytes(path, (json.dumps(_without_nan(result), indent=2, allow_nan=False) + "\n").encode())
