"""Checkpoints that are complete or not there: a folder a step, written under a temporary name and renamed.

    OUT/checkpoints/step-00001000/model.safetensors   student, teacher, auxiliary decoder, centres
                                  optimiser.pt        state of AdamW
                                  config.json         settings of the run
                                  state.json          number of steps done

Random numbers need no state: they are a function of seed, step and rank.
"""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.files import atomic_path, remove
from pipeline.settings import UserError

CHECKPOINTS = "checkpoints"
MODEL = "model.safetensors"
OPTIMISER = "optimiser.pt"
CONFIG = "config.json"
STATE = "state.json"
_NAME = re.compile(r"step-\d{8}")


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of the run in folder `run`, oldest first."""
    folder = run / CHECKPOINTS
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _NAME.fullmatch(path.name) and (path / STATE).is_file())


def save_checkpoint(
    run: Path, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, config: dict[str, Any], keep: int
) -> Path:
    """Save the state after `step` steps, then remove all but the newest `keep` checkpoints; one rank calls it."""
    path = run / CHECKPOINTS / f"step-{step:08d}"
    with atomic_path(path) as temporary:
        temporary.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary / MODEL)
        torch.save(optimiser.state_dict(), temporary / OPTIMISER)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2))
        (temporary / STATE).write_text(json.dumps({"step": step}))
    for old in checkpoints(run)[:-keep]:
        remove(old)
    return path


def load_checkpoint(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Restore model and optimiser from `path`; returns the number of steps done.

    Raises:
        UserError: the checkpoint is damaged or does not fit the model.
    """
    try:
        step = int(json.loads((path / STATE).read_text())["step"])
        tensors = load_file(path / MODEL)
        state = torch.load(path / OPTIMISER, map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(f"the checkpoint {path} is damaged ({error}); remove it to continue before it") from error
    try:
        model.load_state_dict(tensors)
        optimiser.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the checkpoint {path} does not fit this configuration ({reason})") from error
    return step
