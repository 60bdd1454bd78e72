"""Where the weights of a run come from: random numbers, the backbone `model.init`, or a checkpoint of another run.

The run records it in its settings, as `init` and `branched_from`. A run that continues takes it from there, so neither
source is needed again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import ValidationError

from pipeline.files import as_json
from pipeline.reading import read_json, reading
from pipeline.settings import UserError
from training.backbone.families import BackboneOptions
from training.backbone.foreign import read_backbone
from training.backbone.vit import VisionTransformer, VitSettings
from training.checkpoint import checkpoints, describe_checkpoint
from training.command import TrainCommand
from training.distributed import raise_on_all_ranks
from training.model import TCoReSettings
from training.resume import branches
from training.run_config import CONFIG, RESTORE_CONFIG, CommandT, choose_backend

_OF_TRAINING = frozenset({"architecture", "drop_path"})
"""Options of the backbone that do not follow from its weights: a name of other options, and stochastic depth."""


class Origin(NamedTuple):
    """Where the weights of a run come from."""

    init: dict[str, Any] | None = None
    """Name and hash of the weights that student and teacher begin with."""
    branched_from: dict[str, Any] | None = None
    """Step, hashes and settings of the checkpoint that the run begins with."""
    backbone: VisionTransformer | None = None
    """The initial backbone; None if the weights are random, or those of a checkpoint."""

    @property
    def recorded(self) -> dict[str, Any]:
        """The part of config.json that says where the weights come from."""
        return {"init": self.init, "branched_from": self.branched_from}


def read_source(path: Path, options: BackboneOptions) -> tuple[VisionTransformer, dict[str, Any]]:
    """The backbone of `model.init`, for pixels normalized as those of the reader, and how it was read.

    Raises:
        UserError: the weights are missing, damaged, of an unknown kind, or without a CLS token.
    """
    source = read_backbone(path, options)
    if not source.settings.class_token:
        raise UserError(f"model.init = {path} has no CLS token, which the method trains: give weights that have one")
    return source.backbone, {"source": path.name, **json.loads(as_json(source.record()))}


def find_origin(accelerator: Accelerator, command: CommandT) -> tuple[CommandT, Origin]:
    """Find where the weights of a run come from, and read `model.init` if the run begins; all ranks call this.

    Returns the command with the sizes of that backbone and the reader's back end, and the origin.

    Raises:
        UserError: the source cannot be used, differs between machines, or contradicts an option.
    """
    main = accelerator.is_main_process
    recorded = raise_on_all_ranks(accelerator, lambda: recorded_settings(command) if main else None)
    (recorded,) = broadcast_object_list([recorded])
    fitted, origin = raise_on_all_ranks(accelerator, lambda: origin_of(command, recorded))
    (init,) = broadcast_object_list([origin.init])

    def check_same() -> None:
        if origin.init != init:
            raise UserError(f"model.init = {command.model.init} holds other weights on this machine than on the first")

    raise_on_all_ranks(accelerator, check_same)
    if origin.init and origin.backbone is not None:
        sha256 = origin.init["source_sha256"]
        accelerator.print(f"student and teacher begin with {command.model.init} (SHA-256 {sha256[:12]})")
    return choose_backend(fitted, recorded, accelerator.device.type), origin


def recorded_settings(command: TrainCommand) -> dict[str, Any] | None:
    """The settings of the run that `command` continues or branches from, None if it begins anew.

    Those of a run that begins as a branch name the checkpoint under `branched_from`.

    Raises:
        UserError: they cannot be read.
    """
    begun = bool(checkpoints(command.out))
    if branches(command):
        step, sha256, config = describe_checkpoint(Path(command.resume))
        return {**config, "branched_from": {"step": step, "sha256": sha256, "config": config}}
    if command.resume != "auto" and not command.train.branch:
        return describe_checkpoint(Path(command.resume)).config
    return read_json(command.out / CONFIG, RESTORE_CONFIG) if begun else None


def origin_of(command: CommandT, recorded: Mapping[str, Any] | None) -> tuple[CommandT, Origin]:
    """The command with the sizes of the backbone that it begins with, and the origin of its weights.

    Args:
        command: options of the run.
        recorded: settings of the run that it continues or branches from.

    Raises:
        UserError: the source cannot be used, or contradicts an option.
    """
    path = command.model.init
    if recorded is not None:
        origin = Origin(recorded.get("init"), recorded.get("branched_from"))
        with reading(f"the recorded settings of {command.out}", "those of a run", RESTORE_CONFIG):
            given, sizes = recorded["model"].get("init"), VitSettings.model_validate(recorded["model"]["backbone"])
        if command.train.branch and path is not None and str(path) != given:
            raise UserError(f"model.init = {path}: a branch begins with the weights of a checkpoint, leave it out")
        if origin.init is None:
            return command, origin
        name = str(origin.init["source"])
    elif path is not None:
        backbone, init = read_source(path, command.model.init_options)
        origin = Origin(init, backbone=backbone)
        name, sizes = str(path), backbone.settings
    else:
        return command, Origin()
    return command.model_copy(update={"model": fit_model(command.model, sizes, name)}), origin


def fit_model(model: TCoReSettings, sizes: VitSettings, source: str) -> TCoReSettings:
    """The model with a backbone of the given `sizes`, those of the weights `source`.

    Raises:
        UserError: an option that was given contradicts them.
    """
    given = model.backbone
    for key in sorted(given.model_fields_set - _OF_TRAINING):
        if getattr(given, key) != getattr(sizes, key):
            raise UserError(
                f"model.backbone.{key} = {getattr(given, key)}, but the weights {source} have {getattr(sizes, key)}: "
                "leave the option out, it follows from them"
            )
    backbone = sizes.model_copy(update={"drop_path": given.drop_path})
    try:
        return TCoReSettings.model_validate({**dict(model), "backbone": backbone})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"the backbone of {source} does not fit the model: {reason}") from error
