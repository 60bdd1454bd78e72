"""Where weights of a run come from, as their card says it: settings, hashes of the data, steps and metrics, no path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.metrics import METRICS, read_metrics
from training.run_config import ORIGIN

_LOCATIONS = ("shards", "neighbours", "cache", "davis", "knn", "knn_test")
"""Settings that are paths or URIs, even if they are a name without a slash."""
_NOT_SETTINGS = {"data": ("weight", "mix"), "model": ("init", "init_options")}
"""Settings by their group that `ORIGIN` describes without paths."""


def provenance(config: Mapping[str, Any], run: Path, step: int) -> dict[str, Any]:
    """Origin of the weights after `step` steps of a run, without any path of this machine.

    Args:
        config: settings of the run.
        run: its folder, with its metrics, if there are any.
        step: number of steps done.
    """
    published: dict[str, Any] = _without_paths({**_described(config), "steps": step, "logged": _logged(run, step)})
    return published


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run and of the run that it branched from."""
    settings = {key: value for key, value in config.items() if key not in ("preset", "branched_from", *ORIGIN)}
    for group, others in _NOT_SETTINGS.items():
        settings[group] = {key: value for key, value in config.get(group, {}).items() if key not in others}
    branch = config.get("branched_from")
    return {
        "preset": config.get("preset"),
        **{key: config.get(key) for key in ORIGIN},
        "config": settings,
        "branched_from": branch and {**branch, **_described(branch["config"])},
    }


def _without_paths(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """A JSON value without the members whose value is a path or an address, and without those of `_LOCATIONS`."""
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if key not in _LOCATIONS and not _is_path(item)}
        return {key: _without_paths(item) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value if not _is_path(item)]
    return value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)


def _logged(run: Path, step: int) -> dict[str, Any]:
    """Losses and measures of collapse in the last log line up to `step`; empty without metrics."""
    if not (run / METRICS).is_file():
        return {}
    lines = [line for line in read_metrics(run) if line["step"] <= step]
    kept = ("step", "loss/", "target_entropy/", "features/")
    return {key: value for key, value in lines[-1].items() if key.startswith(kept)} if lines else {}
