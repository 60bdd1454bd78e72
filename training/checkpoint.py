"""Checkpoints that are complete or not there: a folder a step, written under a temporary name and renamed.

    OUT/checkpoints/step-00001000/model.safetensors   student, teacher, auxiliary decoder, centers
                                  optimizer.pt        state of AdamW by parameter name
                                  config.json         settings of the run
                                  state.json          number of steps done, SHA-256 of the files above

That is the state of all ranks: random numbers are a function of seed, step and rank, and so is the data. Sharded
parameters are gathered, so any number of ranks continues from it, with DDP or FSDP2.
"""

import re
from collections.abc import Collection, Mapping
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
from training.backbone.tensor_files import check_finite, read_safetensors, read_torch, write_safetensors, write_torch
from training.run_config import CONFIG, run_differences

CHECKPOINTS = "checkpoints"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.pt"
STATE = "state.json"
FILES = (STATE, MODEL, OPTIMIZER, CONFIG)
"""All files of a checkpoint; without the first it is none."""
_NAME = re.compile(r"step-(\d{8})")
_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FULL = StateDictOptions(full_state_dict=True)


class Content(NamedTuple):
    """A checkpoint in memory, checked."""

    path: Path
    step: int
    config: dict[str, Any]
    """Settings of its run."""
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    """Empty where only the model was asked for."""


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of the run in folder `run`, oldest first."""
    folder = run / CHECKPOINTS
    result = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in result if _NAME.fullmatch(path.name) and (path / STATE).is_file())


def outdated(steps: Collection[int], keep: int, keep_every: int | None) -> list[int]:
    """Which checkpoints to remove: all but the newest `keep` and those at multiples of `keep_every` steps."""
    return [step for step in sorted(steps)[:-keep] if not keep_every or step % keep_every]


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    keep: int,
    keep_every: int | None = None,
    writes: bool = True,
) -> Path:
    """Save the state after `step` steps, then remove what is `outdated`. All ranks call it, one of them `writes`.

    Of an outdated checkpoint only its own files are removed: what somebody put beside them stays.
    """
    path = run / CHECKPOINTS / f"step-{step:08d}"
    tensors: dict[str, Any] = get_model_state_dict(model, options=_GATHERED)
    optimizer_state = get_optimizer_state_dict(model, optimizer, options=_GATHERED)
    if not writes:
        return path
    for left in path.parent.glob(f"{TEMPORARY_PREFIX}*"):  # of a run that was killed while it saved
        remove(left)
    with atomic_path(path, FILES) as temporary:
        temporary.mkdir()
        write_safetensors(temporary / MODEL, tensors)
        write_torch(temporary / OPTIMIZER, optimizer_state)
        (temporary / CONFIG).write_bytes(as_json(config))
        hashes = {name: sha256_file(temporary / name) for name in (MODEL, OPTIMIZER, CONFIG)}
        (temporary / STATE).write_bytes(as_json({"step": step, "sha256": hashes}))
    known = {int(old.name.removeprefix("step-")): old for old in checkpoints(run)}
    for number in outdated(known, keep, keep_every):
        remove_files(known[number], FILES)
    return path


def load_checkpoint(path: Path, optimizer: bool = True) -> Content:
    """Read a checkpoint and check that it is what was written: the hash of every file, and that all weights are finite.

    Without `optimizer`, as for an export, that file is neither read nor needed.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if (path / CHECKPOINTS).is_dir():
        raise UserError(f"{path} is the folder of a run: give one of {path / CHECKPOINTS}/step-*")
    if not (path / STATE).is_file():
        raise UserError(f"{path} is not a training checkpoint: it has no {STATE}")
    try:
        state = read_json(path / STATE)
        recorded, step = state.get("sha256"), state.get("step")
        if not isinstance(recorded, dict) or not isinstance(step, int):
            raise UserError(f"{STATE} does not give the step and the hashes of the other files")
        for name in (MODEL, OPTIMIZER, CONFIG) if optimizer else (MODEL, CONFIG):
            if sha256_file(path / name) != recorded.get(name):
                raise UserError(f"{name} is not what was written")
        config = read_json(path / CONFIG)
        model = read_safetensors(path / MODEL)[1]
        content = Content(path, step, config, model, read_torch(path / OPTIMIZER) if optimizer else {})
    except OSError as error:
        raise UserError(f"the checkpoint {path} is damaged ({error.filename}: {error.strerror})") from error
    except UserError as error:
        raise UserError(f"the checkpoint {path} is damaged ({error})") from error
    check_finite(content.model, path)
    return content


def read_checkpoint(path: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Content:
    """Read and check a checkpoint for a run with `config` whose model state has these `shapes`.

    Raises:
        UserError: it is damaged, of another run, or does not fit the model.
    """
    content = load_checkpoint(path)
    if difference := run_differences(content.config, config):
        raise UserError(f"the checkpoint {path} is of a run with other settings: {difference}")
    result = {name: tuple(tensor.shape) for name, tensor in content.model.items()}
    if wrong := sorted(name for name in result.keys() | shapes.keys() if result.get(name) != shapes.get(name)):
        raise UserError(f"the checkpoint {path} does not fit the model ({wrong[0]} and {len(wrong) - 1} more)")
    return content


def newest_usable(
    found: list[Path], config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Content | None, list[str]]:
    """The newest of `found` that can be read, or None where there is none, and why newer ones were refused.

    Raises:
        UserError: there are checkpoints, but none can be used.
    """
    refused: list[str] = []
    for path in reversed(found):
        try:
            return read_checkpoint(path, config, shapes), refused
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError(f"no checkpoint can be used: {'; '.join(refused)}. Remove them to start anew")
    return None, refused


def restore(content: Content, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's state into model and optimizer; all ranks call it."""
    set_model_state_dict(model, dict(content.model), options=_FULL)
    set_optimizer_state_dict(model, optimizer, content.optimizer, options=_FULL)


def state_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's state, whole even where it is sharded."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
