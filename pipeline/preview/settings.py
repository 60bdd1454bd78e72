"""The settings with which a training would read the dataset."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.dataset import Manifest
from pipeline.presets import load_preset
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.settings import UserError


def reader_settings(
    shards: str, manifest: Manifest, seed: int, training: Path | None = None, sandwich: SandwichSettings | None = None
) -> ReaderSettings:
    """The data settings of a preset or run `training`, or the defaults with the given `sandwich`.

    Still images without neighbours have no auxiliary frames.

    Raises:
        UserError: `training` is not a preset or `config.json`.
    """
    values: Any = load_preset(training).values.get("data", {}) if training else {}
    if not isinstance(values, dict):
        raise UserError(f"--training {training} is not a preset or the config.json of a run: data holds no settings")
    if sandwich is not None:
        values["sandwich"] = sandwich
    if manifest.media == "images" and not values.get("neighbours"):
        values["sandwich"] = {"auxiliary": ()}
    try:
        return ReaderSettings.model_validate({**values, "shards": shards, "seed": seed, "prefetch": 1})
    except ValidationError as error:
        problems = [f"data.{'.'.join(map(str, p['loc']))} = {p['input']!r}: {p['msg']}" for p in error.errors()]
        raise UserError(f"--training {training}: {'; '.join(problems)}") from error
