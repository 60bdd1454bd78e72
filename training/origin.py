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
from training.backbone.source import MODEL, STATE, source_sha256
from training.backbone.vit import VisionTransformer, VitSettings
from training.checkpoint import checkpoints, describe_checkpoint, step_name
from training.command import TrainCommand
from training.distributed import raise_on_all_ranks
from training.model import TCoReSettings
from training.resume import branches
from training.run_config import CONFIG, RESTORE_CONFIG, CommandT, choose_backend

_OF_TRAINING = frozenset({"architecture", "drop_path", "layer_scale"})
"""Options of the backbone that do not follow from its weights: a name of other options, stochastic depth, and an
initial value, which the weights replace."""


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
    record = {"source": path.name, **source.record(), "file_sha256": source.sha256}
    return source.backbone, json.loads(as_json(record))


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
        UserError: they cannot be read, or are those of a run with another origin than `command` names.
    """
    if branches(command):
        step, sha256, config = describe_checkpoint(Path(command.resume))
        recorded = {**config, "branched_from": {"step": step, "sha256": sha256, "config": config}}
    elif command.resume != "auto" and not command.train.branch:
        recorded = describe_checkpoint(Path(command.resume)).config
    elif checkpoints(command.out):
        recorded = read_json(command.out / CONFIG, RESTORE_CONFIG)
        if command.train.branch and command.resume != "auto":
            refuse_other_branch(command, recorded.get("branched_from"))
    else:
        return None
    with reading(f"the recorded settings of {command.out}", "those of a run", RESTORE_CONFIG):
        refuse_other_source(command.model, recorded)
    return recorded


def refuse_other_branch(command: TrainCommand, branched_from: Mapping[str, Any] | None) -> None:
    """Check that the run in `out` branched from the checkpoint `resume`, which may be gone.

    Raises:
        UserError: it did not.
    """
    path, way = Path(command.resume), "Leave --resume out to continue that run, or choose another --out"
    if branched_from is None:
        raise UserError(f"{command.out} holds a run that did not branch from {path}. {way}")
    step, recorded = branched_from["step"], branched_from["sha256"]
    if (path / STATE).is_file():
        same = describe_checkpoint(path)[:2] == (step, recorded)
    else:
        same = path.name == step_name(step)
    if not same:
        raise UserError(
            f"{command.out} holds a run that branched from another checkpoint than {path}: from step {step} with "
            f"weights {recorded[MODEL][:12]}. {way}"
        )


def refuse_other_source(model: TCoReSettings, recorded: Mapping[str, Any]) -> None:
    """Check that `init` and `init_options`, as far as they are given, are those of a run; its source may be gone.

    Raises:
        UserError: they are not.
    """
    path, init, before = model.init, recorded.get("init") or {}, recorded["model"]
    if path is not None and not init:
        raise UserError(f"model.init = {path}, but the run began without such weights: leave it out")
    if path is not None and path.exists():
        sha256 = source_sha256(path)
        if sha256 not in (init.get("file_sha256"), init["source_sha256"]):
            raise UserError(
                f"model.init = {path} holds other weights ({sha256[:12]}) than those that the run began with "
                f"({init['source']}, {init['source_sha256'][:12]}): leave it out"
            )
    elif path is not None and str(path) != before.get("init"):
        raise UserError(f"model.init = {path} is absent, and the run began with {before.get('init')}: leave it out")
    options = _recorded_options(recorded)
    for key, value in model.init_options.given().items():
        if getattr(options, key) != value:
            raise UserError(
                f"model.init_options.{key} = {value}, but the run began with {getattr(options, key)}: leave it out"
            )


def _recorded_options(recorded: Mapping[str, Any]) -> BackboneOptions:
    return BackboneOptions.model_validate(recorded["model"].get("init_options", {}))


def origin_of(command: CommandT, recorded: Mapping[str, Any] | None) -> tuple[CommandT, Origin]:
    """The command with the sizes of the backbone that it begins with, and the origin of its weights.

    Args:
        command: options of the run.
        recorded: settings of the run that it continues or branches from.

    Raises:
        UserError: the source cannot be used, or contradicts an option.
    """
    model = command.model
    if recorded is not None:
        origin = Origin(recorded.get("init"), recorded.get("branched_from"))
        with reading(f"the recorded settings of {command.out}", "those of a run", RESTORE_CONFIG):
            path, sizes = recorded["model"].get("init"), VitSettings.model_validate(recorded["model"]["backbone"])
            source = {"init": path and Path(path), "init_options": _recorded_options(recorded)}
        model = model.model_copy(update=source)  # it began with them, wherever they are now
        fitted = fit_model(model, sizes, str(origin.init["source"])) if origin.init else model
    elif model.init is not None:
        backbone, init = read_source(model.init, model.init_options)
        origin = Origin(init, backbone=backbone)
        fitted = fit_model(model, backbone.settings, str(model.init))
    else:
        if given := model.init_options.given():
            raise UserError(f"model.init_options.{next(iter(given))} says how to read model.init, which is not given")
        return command, Origin()
    return command.model_copy(update={"model": fitted}), origin


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
