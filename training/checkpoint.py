"""Atomic checkpoints: one folder per step, written under a temporary name and renamed.

    OUT/checkpoints/step-00001000/model.safetensors   student, teacher, auxiliary decoder, centers
                                  optimizer.pt        state of AdamW by parameter name
                                  config.json         settings of the run
                                  state.json          number of steps done, SHA-256 of the other files

This is the state of all ranks, since random numbers and data are functions of seed, step and rank. Sharded parameters
are gathered, so a run can continue on any number of ranks, with DDP or FSDP2.
"""

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from pipeline.files import TEMPORARY_PREFIX, as_json, atomic_path, remove, remove_files, sha256_file
from pipeline.reading import read_json
from pipeline.settings import UserError
from training.backbone.source import STATE as STATE
from training.backbone.tensor_files import check_finite, read_safetensors, read_torch, write_safetensors, write_torch
from training.run_config import CONFIG, model_differences, run_differences

CHECKPOINTS = "checkpoints"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.pt"
FILES = (STATE, MODEL, OPTIMIZER, CONFIG)
"""All files of a checkpoint; a folder without the first is not one."""
_NAME = re.compile(r"step-(\d{8})")
_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FULL = StateDictOptions(full_state_dict=True)


class Description(NamedTuple):
    """What a checkpoint says about itself."""

    step: int
    sha256: dict[str, str]
    """Hashes of its other files by name."""
    config: dict[str, Any]
    """Settings of the run."""


class Content(NamedTuple):
    """A checkpoint in memory, after its checks."""

    path: Path
    step: int
    config: dict[str, Any]
    """Settings of the run."""
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    """Empty if it was not loaded."""


def checkpoints(run: Path) -> list[Path]:
    """Paths of the checkpoints in the folder of a run, oldest first."""
    folder = run / CHECKPOINTS
    result = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in result if _NAME.fullmatch(path.name) and (path / STATE).is_file())


def step_name(step: int) -> str:
    """Name of the folder of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def outdated(steps: Collection[int], keep: int, keep_every: int | None) -> list[int]:
    """Steps of the checkpoints to remove: all except the newest `keep` and multiples of `keep_every`."""
    return [step for step in sorted(steps)[:-keep] if not keep_every or step % keep_every]


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    writes: bool = True,
) -> Path:
    """Save the state after `step` steps in the folder `run`; all ranks call this together, and one of them `writes`."""
    path = run / CHECKPOINTS / step_name(step)
    tensors: dict[str, Any] = get_model_state_dict(model, options=_GATHERED)
    optimizer_state = get_optimizer_state_dict(model, optimizer, options=_GATHERED)
    if not writes:
        return path
    for leftover in path.parent.glob(f"{TEMPORARY_PREFIX}*"):  # of a run that was killed while saving
        remove(leftover)
    with atomic_path(path, FILES) as temporary:
        temporary.mkdir()
        write_safetensors(temporary / MODEL, tensors)
        write_torch(temporary / OPTIMIZER, optimizer_state)
        (temporary / CONFIG).write_bytes(as_json(config))
        hashes = {name: sha256_file(temporary / name) for name in (MODEL, OPTIMIZER, CONFIG)}
        (temporary / STATE).write_bytes(as_json({"step": step, "sha256": hashes}))
    return path


def remove_outdated(run: Path, keep: int, keep_every: int | None = None) -> None:
    """Remove the files of `outdated` checkpoints; other files in their folders stay."""
    paths = {int(path.name.removeprefix("step-")): path for path in checkpoints(run)}
    for step in outdated(paths, keep, keep_every):
        remove_files(paths[step], FILES)


def describe_checkpoint(path: Path) -> Description:
    """Read step, hashes and settings of a checkpoint; its tensors are not read.

    Raises:
        UserError: there is no checkpoint, or these files are damaged.
    """
    if (path / CHECKPOINTS).is_dir():
        raise UserError(f"{path} is the folder of a run: give one of {path / CHECKPOINTS}/step-*")
    if not (path / STATE).is_file():
        raise UserError(f"{path} is not a training checkpoint: it has no {STATE}")
    with _damage_named(path):
        state = read_json(path / STATE)
        recorded, step = state.get("sha256"), state.get("step")
        if not isinstance(recorded, dict) or not isinstance(step, int):
            raise UserError(f"{STATE} does not hold the step and the hashes of the other files")
        _check_hash(path / CONFIG, recorded)
        return Description(step, recorded, read_json(path / CONFIG))


def load_checkpoint(path: Path, optimizer: bool = True) -> Content:
    """Read a checkpoint, verify the hashes of its files, and check that all weights are finite.

    With `optimizer` false, as for an export, the state of the optimizer is neither read nor needed.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    step, recorded, config = describe_checkpoint(path)
    with _damage_named(path):
        for name in (MODEL, OPTIMIZER) if optimizer else (MODEL,):
            _check_hash(path / name, recorded)
        model = read_safetensors(path / MODEL)[1]
        content = Content(path, step, config, model, read_torch(path / OPTIMIZER) if optimizer else {})
    check_finite(content.model, path)
    return content


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Context whose errors say that the checkpoint is damaged."""
    try:
        yield
    except OSError as error:
        raise UserError(f"the checkpoint {path} is damaged ({error.filename}: {error.strerror})") from error
    except UserError as error:
        raise UserError(f"the checkpoint {path} is damaged ({error})") from error


def _check_hash(file: Path, recorded: Mapping[str, str]) -> None:
    if sha256_file(file) != recorded.get(file.name):
        raise UserError(f"{file.name} has changed since it was written")


def read_checkpoint(
    path: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], branch: bool = False
) -> Content:
    """Read a checkpoint and check that it belongs to a run with `config` and a model state of these `shapes`.

    For a `branch`, the other settings of its run may be any.

    Raises:
        UserError: it is damaged, of another run, or does not match the model.
    """
    content = load_checkpoint(path)
    if not branch and (difference := run_differences(content.config, config)):
        raise UserError(
            f"the checkpoint {path} is of a run with other settings: {difference}. "
            "To continue its weights, optimizer and centers under the new ones, add --train.branch true"
        )
    saved = {name: tuple(tensor.shape) for name, tensor in content.model.items()}
    if wrong := sorted(name for name in saved.keys() | shapes.keys() if saved.get(name) != shapes.get(name)):
        reason = model_differences(content.config, config) or "give the model options of its run"
        raise UserError(
            f"the checkpoint {path} does not match the model ({wrong[0]} and {len(wrong) - 1} more): {reason}"
        )
    return content


def restore(content: Content, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the state of a checkpoint into model and optimizer; all ranks call this."""
    set_model_state_dict(model, dict(content.model), options=_FULL)
    state = {"state": content.optimizer["state"], "param_groups": _parameter_groups(model, optimizer)}
    set_optimizer_state_dict(model, optimizer, state, options=_FULL)


def has_optimizer_state(content: Content, prefix: str) -> bool:
    """Whether the optimizer has updated any parameter whose name begins with `prefix`."""
    return any(name.startswith(prefix) for name in content.optimizer["state"])


def _parameter_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups of the optimizer with the names of their parameters: the settings of this run, not the saved ones."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [{**group, "params": [names[member] for member in group["params"]]} for group in optimizer.param_groups]


def state_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and unsharded shapes of a model's state."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
