"""Settings of a run as its folder records them, and what must agree before a run begins or goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import write_bytes
from pipeline.settings import UserError

if TYPE_CHECKING:
    from training.pretrain import PretrainCommand

CONFIG = "config.json"

FREE_SETTINGS = frozenset(
    {
        "preset",  # only a name: its settings count
        "data.shards",  # the shards may have moved; their hash may not change
        "data.neighbours",
        "data.cache",
        "data.cache_gb",
        "data.read_ahead",
        "data.threads",
        "data.prefetch",
        "train.micro_batch_size",
        "train.compile",
        "train.recompute",
        "train.log_every",
        "train.trackers",
        "train.maps_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.keep_every",
        "train.nonfinite_steps",
    }
)
"""Settings that a continued run may change."""


def run_config(command: "PretrainCommand", dataset_hash: str) -> dict[str, Any]:
    """What a run is made from, as recorded in its folder: all settings, with the shards named by their content."""
    config = command.model_dump(mode="json", exclude={"config", "out", "resume", "eval"})
    return {**config, "preset": command.config and command.config.stem, "dataset_hash": dataset_hash}


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Settings of two runs that differ and can change the result, each as `key = a there, b here`."""
    there, here = flatten(recorded), flatten(asked)
    keys = sorted((there.keys() | here.keys()) - FREE_SETTINGS)
    return [f"{key} = {there.get(key)} there, {here.get(key)} here" for key in keys if there.get(key) != here.get(key)]


def check_run_folder(out: Path, config: dict[str, Any], begun: bool) -> None:
    """Make sure that `out` is of a run with `config` if that has `begun`, and record it there.

    Raises:
        UserError: it is of another run (names the settings that differ), or the folder cannot be written.
    """
    path = out / CONFIG
    try:
        if begun and (different := differences(json.loads(path.read_text()), config)):
            raise UserError(f"{out} holds a run with other settings: {'; '.join(different)}. Choose another --out")
        write_bytes(path, json.dumps(config, indent=2).encode() + b"\n")
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON ({error}): restore it or choose another --out") from error
    except OSError as error:
        raise UserError(f"cannot write the run folder {out}: {error.strerror}") from error


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def check_shapes(command: "PretrainCommand") -> None:
    """Make sure that reader and model agree.

    Raises:
        UserError: names the two settings that contradict each other.
    """
    views, backbone = command.data.views, command.model.backbone
    if command.data.patch_size != backbone.patch_size:
        raise UserError(
            f"data.patch_size = {command.data.patch_size} and model.backbone.patch_size = {backbone.patch_size} "
            "must be equal"
        )
    for name, size in (("global_size", views.global_size), ("local_size", views.local_size)):
        if size % backbone.patch_size:
            raise UserError(f"data.views.{name} = {size} must be a multiple of the patch size {backbone.patch_size}")
    has_auxiliary = bool(command.data.neighbours or command.data.sandwich.auxiliary)
    model = command.model
    if has_auxiliary != (model.auxiliary_branch or model.teacher_sees == "auxiliary"):
        raise UserError(
            f"model.auxiliary_branch = {model.auxiliary_branch} does not fit data.sandwich.auxiliary = "
            f"{list(command.data.sandwich.auxiliary)}: without the branch the list must be empty, with it not"
        )
    if model.teacher_sees == "auxiliary" and not command.data.all_auxiliary:
        raise UserError("model.teacher_sees = auxiliary needs data.all_auxiliary = true")
