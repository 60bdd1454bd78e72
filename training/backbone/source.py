"""The files of weights and their hash, without PyTorch, which the neighbour search must not load."""

import hashlib
from pathlib import Path
from typing import Any

from pipeline.files import sha256_file
from pipeline.fingerprints import fingerprint
from pipeline.reading import read_json, reading
from pipeline.settings import UserError
from training.backbone.families import BackboneOptions

MODEL, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
STATE = "state.json"
"""File of a training checkpoint with the hashes of its other files."""
_INDEX = ".index.json"


def existing(folder: Path, name: str) -> list[Path]:
    """The file of this name in a folder, if there is one."""
    return [folder / name] if (folder / name).is_file() else []


def tensor_files(folder: Path) -> list[Path]:
    """The files with the tensors of a `transformers` folder: safetensors, otherwise `pytorch_model.bin`.

    Raises:
        UserError: there are none, or an index names one that is missing.
    """
    for single in (MODEL, "pytorch_model.bin"):
        if file := existing(folder, single):
            return file
        for index in existing(folder, single + _INDEX):
            shards = read_json(index).get("weight_map")
            names = sorted({Path(str(name)).name for name in shards.values()} if isinstance(shards, dict) else ())
            if not names:
                raise UserError(f"{index} names no files with tensors (weight_map): copy or download it again")
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise UserError(f"{folder} has no {missing[0]}, which {index.name} names: copy or download it again")
            return [folder / name for name in names]
    raise UserError(f"{folder} has no weights ({MODEL} or pytorch_model.bin)")


def settings_beside(file: Path) -> dict[str, Any]:
    """Settings of the backbone that a training checkpoint of this project has beside its tensors, otherwise empty.

    Raises:
        UserError: the settings are damaged, or of other tensors.
    """
    folder = file.parent
    if file.name != MODEL or not existing(folder, STATE):
        return {}
    recorded = read_json(folder / STATE).get("sha256")
    hashes = {name: sha256_file(path) for name in (MODEL, CONFIG) for path in existing(folder, name)}
    if not isinstance(recorded, dict) or any(recorded.get(name) != hashes.get(name) for name in (MODEL, CONFIG)):
        raise UserError(f"the checkpoint {folder} is damaged: its files are not those that {STATE} describes")
    with reading(folder / CONFIG, "the settings of a training run"):
        return dict(read_json(folder / CONFIG)["model"]["backbone"])


def source_sha256(path: Path, options: BackboneOptions | None = None) -> str:
    """Hex SHA-256 of a file of weights, or over the files of a folder; with options, of both.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    with reading(f"the weights {path}", "a file or folder"):
        if path.is_dir():
            files = [file for name in (CONFIG, PREPROCESSOR) for file in existing(path, name)]
            sha256 = fingerprint(path, [*files, *tensor_files(path)])
        else:
            sha256 = sha256_file(path)
    if options is None or options == BackboneOptions():
        return sha256
    return hashlib.sha256(f"{sha256} {options.model_dump_json(exclude_defaults=True)}".encode()).hexdigest()
