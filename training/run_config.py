"""Settings of a run as its folder records them, and the checks before a run starts or continues."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline.dataset import read_manifest
from pipeline.differences import differences
from pipeline.files import as_json, write_bytes
from pipeline.neighbours import read_neighbours
from pipeline.presets import preset_name
from pipeline.reader.settings import ReaderSettings
from pipeline.reading import read_json
from pipeline.settings import UserError
from training.backbone.source import MODEL
from training.command import TrainCommand

CommandT = TypeVar("CommandT", bound=TrainCommand)

CONFIG = "config.json"
PAGE, PICTURE, BATCH_PICTURE = "report.html", "report.png", "batch.png"
"""Files of the report of a run."""
ORIGIN = ("datasets", "neighbours_sha256", "init")
"""Keys of the settings of a run that identify its data and initial weights, without any path."""
RESTORE_CONFIG = "Restore it or choose another --out"
"""What to do when the settings of a run cannot be read."""
WRITTEN = (CONFIG, "checkpoints", "metrics.jsonl", "nonfinite", "attention", "profile", PAGE, PICTURE, BATCH_PICTURE)
"""Files and folders of a run, besides those of its evaluator."""

FREE_SETTINGS = frozenset(
    {
        "preset",  # only a name
        "data.shards",  # the data may have moved; `datasets` identifies its content
        "data.weight",
        "data.mix",
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
        "train.report",
        "train.profile",
        "train.maps_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.keep_every",
        "train.nonfinite_steps",
        "train.branch",  # `branched_from` is what it has led to
    }
)
"""Settings that may change when a run is continued."""


_WITHOUT_SHAPES = (
    "model.loss",
    "model.init",
    "model.init_options",
    "model.freeze_backbone_epochs",
    "model.teacher_sees",
    "model.backbone.architecture",
    "model.backbone.drop_path",
)
"""Settings of the model on which the shapes of its tensors do not depend."""
_FIRST_BACKEND = "dali"
"""The back end of runs that do not record one."""


class RunData(NamedTuple):
    """The data of a run, identified by content."""

    datasets: list[dict[str, Any]]
    """`dataset_hash` and `weight` of each dataset."""
    neighbours: str | None
    """SHA-256 of the rows of the neighbour table, if there is one."""
    samples: int
    """Number of samples of all datasets."""

    def __str__(self) -> str:
        more = f" of {len(self.datasets)} datasets" if len(self.datasets) > 1 else ""
        return f"{self.samples} samples{more}"


def read_data(settings: ReaderSettings) -> RunData:
    """Read the manifests of the datasets and the neighbour table.

    Raises:
        UserError: a dataset or the table is missing, or the table was made from other shards.
    """
    mixture = settings.mixture()
    manifests = [read_manifest(entry.shards) for entry in mixture]
    neighbours = None
    if settings.neighbours is not None:
        neighbours = hashlib.sha256(read_neighbours(settings.neighbours, manifests[0]).tobytes()).hexdigest()
    datasets = [
        {"dataset_hash": manifest.dataset_hash, "weight": entry.weight}
        for manifest, entry in zip(manifests, mixture, strict=True)
    ]
    return RunData(datasets, neighbours, sum(manifest.samples for manifest in manifests))


def run_config(command: TrainCommand, data: RunData) -> dict[str, Any]:
    """Content of config.json, without the origin of the weights: all settings of a run, and the hashes of its data."""
    config = command.model_dump(mode="json", include=set(TrainCommand.model_fields) - {"config", "out", "resume"})
    names = {"preset": command.config and preset_name(command.config)}
    return {**config, **names, "datasets": data.datasets, "neighbours_sha256": data.neighbours}


def _data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `data` of a run, with its back end."""
    return {"backend": _FIRST_BACKEND, **config.get("data", {})}


def choose_backend(command: CommandT, recorded: Mapping[str, Any] | None, device_type: str) -> CommandT:
    """The command with `data.backend` in place of auto, so that a run that continues never changes its pixels.

    Args:
        command: options of the run.
        recorded: settings of the run that it continues or branches from.
        device_type: `cpu` or `cuda`, where a new run trains.
    """
    backend = command.data.backend_on(device_type)
    if command.data.backend == "auto" and recorded is not None:
        backend = _data_settings(recorded)["backend"]
    return command.model_copy(update={"data": command.data.model_copy(update={"backend": backend})})


def run_differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """The settings of two runs that differ and can change the result; empty if there are none."""
    before, now = ({**config, "data": _data_settings(config)} for config in (recorded, current))
    return differences(before, now, FREE_SETTINGS)


def model_differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """The settings of two models that differ and can change the names or shapes of their tensors."""
    before, now = ({"model": config.get("model", {})} for config in (recorded, current))
    return differences(before, now, _WITHOUT_SHAPES)


def check_run_folder(out: Path, config: Mapping[str, Any], begun: bool, files: Sequence[str] = ()) -> None:
    """Check that the folder `out` can be used for a run with `config`.

    Args:
        out: folder of the run.
        config: settings of the run.
        begun: whether `out` holds checkpoints, whose settings must be the same.
        files: names of files that the evaluator will write to `out`.

    Raises:
        UserError: the folder belongs to a run with other settings (names them) or, without a checkpoint, other
            initial weights, holds other files under the names of a run's, or cannot be read.
    """
    try:
        existing = [name for name in (*WRITTEN, *files) if (out / name).exists()]
        recorded = read_json(out / CONFIG, RESTORE_CONFIG) if CONFIG in existing else {}
    except OSError as error:
        raise _cannot_use(out, "read", error) from error
    if not existing:
        return
    if not recorded.keys() >= {"model", "data", "train"}:
        raise UserError(
            f"{out} holds {existing[0]}, which would be replaced, but no {CONFIG} of a training run: "
            "choose another --out"
        )
    if not begun:
        _refuse_other_beginning(out, recorded, config)
    elif difference := run_differences(recorded, config):
        raise UserError(
            f"{out} holds a run with other settings: {difference}. Choose another --out, or continue the "
            "weights, optimizer and centers of its checkpoint under the new ones: "
            f"--resume {out}/checkpoints/step-N --out NEW --train.branch true"
        )


def write_config(out: Path, config: Mapping[str, Any]) -> None:
    """Record the settings of a run in its folder.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        write_bytes(out / CONFIG, as_json(config))
    except OSError as error:
        raise _cannot_use(out, "write", error) from error


def _cannot_use(out: Path, verb: str, error: OSError) -> UserError:
    return UserError(f"cannot {verb} the run folder {out}: {error.strerror}")


def _refuse_other_beginning(out: Path, recorded: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Check that a run without a checkpoint, which reads its first weights again, begins with the same ones.

    Raises:
        UserError: it began with given weights, and now others or none are given.
    """
    end = "again, as there is no checkpoint yet; to begin anew, choose another --out"
    branch, now = recorded.get("branched_from"), config.get("branched_from") or {}
    if branch and any(now.get(key) != branch[key] for key in ("step", "sha256")):
        step, weights = branch["step"], branch["sha256"][MODEL][:12]
        raise UserError(
            f"{out} holds a run that branched from step {step} of another one (weights {weights}): give "
            f"--train.branch true --resume RUN/checkpoints/step-{step:08d} {end}"
        )
    init, now = recorded.get("init"), config.get("init") or {}
    if init and (
        any(now.get(key) != init.get(key) for key in ("source_sha256", "file_sha256"))
        or _init_options(recorded) != _init_options(config)
    ):
        options = [("init", recorded["model"]["init"])]
        options += [(f"init_options.{key}", value) for key, value in _init_options(recorded).items()]
        raise UserError(
            f"{out} holds a run that began with the weights {init['source']} ({init['source_sha256'][:12]}): give "
            f"{' '.join(f'--model.{key} {_word(value)}' for key, value in options)} {end}"
        )


def _init_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options `model.init_options` that are given in the settings of a run."""
    return {key: value for key, value in config["model"].get("init_options", {}).items() if value not in (None, [], ())}


def _word(value: object) -> str:
    """A setting as a word of a command line."""
    return shlex.quote(",".join(map(str, value)) if isinstance(value, list) else str(value))


def check_shapes(command: TrainCommand) -> None:
    """Check that the views of the reader match the model.

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
            f"model.auxiliary_branch = {model.auxiliary_branch} does not match data.sandwich.auxiliary = "
            f"{list(command.data.sandwich.auxiliary)}: the list must be empty without the branch, and only then"
        )
    if model.teacher_sees == "auxiliary" and not command.data.all_auxiliary:
        raise UserError("model.teacher_sees = auxiliary needs data.all_auxiliary = true")
