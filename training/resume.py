"""Resume a run: the main rank chooses a checkpoint, and all ranks restore it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from pipeline.settings import UserError
from training.checkpoint import Content, checkpoints, read_checkpoint, restore, state_shapes
from training.command import TrainCommand
from training.distributed import raise_on_all_ranks


def newest_usable(
    paths: list[Path], config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Content | None, list[str]]:
    """The newest usable checkpoint of `paths`, None if there are none, and why newer ones were refused.

    Raises:
        UserError: there are checkpoints, but none can be used.
    """
    refused: list[str] = []
    for path in reversed(paths):
        try:
            return read_checkpoint(path, config, shapes), refused
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError(f"no checkpoint can be used: {'; '.join(refused)}. Remove them to start from scratch")
    return None, refused


def resume(
    accelerator: Accelerator,
    command: TrainCommand,
    config: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restore model and optimizer from the checkpoint that `command.resume` asks for; all ranks call this.

    Returns the number of steps done, 0 if there is no checkpoint.

    Raises:
        UserError: the checkpoint is damaged, or of another run or model.
    """
    shapes = state_shapes(model)

    def choose() -> Content | None:
        if not accelerator.is_main_process:
            return None
        if command.resume != "auto":
            return read_checkpoint(Path(command.resume), config, shapes)
        content, refused = newest_usable(checkpoints(command.out), config, shapes)
        for reason in refused:
            print(f"refused: {reason}", flush=True)
        return content

    content = raise_on_all_ranks(accelerator, choose)
    (path,) = broadcast_object_list([content and str(content.path)])
    if path is None:
        return 0
    content = raise_on_all_ranks(accelerator, lambda: content or read_checkpoint(Path(path), config, shapes))
    restore(content, model, optimizer)
    accelerator.print(f"continuing from {path}")
    return content.step
