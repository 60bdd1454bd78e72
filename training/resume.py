"""The checkpoint that a run continues from: the main rank chooses it, and all ranks read it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from pipeline.settings import UserError
from training.checkpoint import Content, checkpoints, read_checkpoint
from training.command import TrainCommand
from training.distributed import raise_on_all_ranks


def branches(command: TrainCommand) -> bool:
    """Whether a run begins as a branch of another one; once it has checkpoints, it continues from its own.

    Raises:
        UserError: the checkpoint to branch from is not given.
    """
    if not command.train.branch or checkpoints(command.out):
        return False
    if command.resume == "auto":
        raise UserError("train.branch needs the checkpoint to branch from: --resume RUN/checkpoints/step-N")
    return True


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


def find_checkpoint(
    accelerator: Accelerator,
    command: TrainCommand,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> Content | None:
    """Read the checkpoint that `command.resume` asks for, None if there is none; all ranks call this.

    Args:
        accelerator: of the run.
        command: options of the run.
        config: settings of the run, which those of the checkpoint must equal unless the run branches from it.
        shapes: names and unsharded shapes of the model's state.

    Raises:
        UserError: the checkpoint is damaged, or of another run or model.
    """

    def choose() -> tuple[Content | None, bool]:
        if not accelerator.is_main_process:
            return None, False
        if branches(command):
            return read_checkpoint(Path(command.resume), config, shapes, branch=True), True
        if command.resume != "auto" and not command.train.branch:
            return read_checkpoint(Path(command.resume), config, shapes), False
        content, refused = newest_usable(checkpoints(command.out), config, shapes)
        for reason in refused:
            print(f"refused: {reason}", flush=True)
        return content, False

    content, branch = raise_on_all_ranks(accelerator, choose)
    path, branch = broadcast_object_list([content and str(content.path), branch])
    if path is None:
        return None
    content = raise_on_all_ranks(accelerator, lambda: content or read_checkpoint(Path(path), config, shapes, branch))
    accelerator.print(f"{'branching' if branch else 'continuing'} from {path}")
    return content
