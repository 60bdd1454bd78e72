"""Portable backbone weights: a self-describing safetensors file with DINOv2-style names.

The metadata in its header has one key, `tcore_card`: a JSON object with `architecture` (the `VitSettings`) and the
origin of the weights. (Only one key, because safetensors writes several in random order, and the bytes of a file must
depend on its content only.) Any safetensors reader loads the tensors; `load_backbone` needs only the file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.files import atomic_path
from pipeline.reading import reading
from pipeline.settings import UserError
from training.backbone.tensor_files import check_finite, read_safetensors, write_safetensors
from training.backbone.vit import VisionTransformer, VitSettings, random_backbone

__all__ = ["backbone_sha256", "build_backbone", "load_backbone", "random_backbone", "read_card", "save_backbone"]

_HINT = "write one with `python -m training.export` or `python -m training.import_official`"
_ADVICE = _HINT.capitalize()
_CARD = "tcore_card"
"""Key of the metadata in the header."""


def save_backbone(path: Path, backbone: VisionTransformer, card: Mapping[str, Any]) -> None:
    """Write the weights as float32, atomically; `card` is a description of their origin that JSON can hold.

    Raises:
        UserError: the file cannot be written, or would replace a file that this function did not write.
    """
    refuse_foreign(path)
    tensors = {name: tensor.detach().float().cpu() for name, tensor in backbone.state_dict().items()}
    described = {"architecture": backbone.settings.model_dump(mode="json"), **card}
    try:
        with atomic_path(path) as temporary:
            write_safetensors(temporary, tensors, {_CARD: json.dumps(described, sort_keys=True)})
    except OSError as error:
        raise UserError(f"cannot write the weights {path}: {error.strerror or error}") from error


def refuse_foreign(path: Path) -> None:
    """Check that a file at `path` may be replaced: it is empty, or self-describing weights.

    Raises:
        UserError: it is anything else.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file for the weights")
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        _architecture(read_card(path), path)
    except UserError as error:
        raise UserError(
            f"{path} exists and was not written by this program: give another name or move it away"
        ) from error


def load_backbone(path: Path) -> VisionTransformer:
    """Load a backbone from a file of `save_backbone`: eval mode, float32, on the CPU.

    Raises:
        UserError: the file is missing or damaged, or is another kind of file.
    """
    return load_export(path)[1]


def load_export(path: Path) -> tuple[dict[str, Any], VisionTransformer]:
    """The card and the backbone of a file of `save_backbone`; raises like `load_backbone`."""
    card, tensors = _read(path)
    backbone = build_backbone(_architecture(card, path), tensors, path)
    refuse_other_weights(backbone, card, path)
    return card, backbone


def refuse_other_weights(backbone: VisionTransformer, card: Mapping[str, Any], source: Path) -> None:
    """Check that a backbone is the one that the card of the file or folder `source` describes.

    Raises:
        UserError: the hash in the card is another one.
    """
    recorded = card.get("weights_sha256")
    if recorded is not None and recorded != backbone_sha256(backbone):
        raise UserError(f"the weights in {source} are not those that it describes: copy them again, or {_HINT}")


def is_export(path: Path) -> bool:
    """Whether a file says that `save_backbone` wrote it."""
    try:
        with safe_open(path, framework="pt") as file:
            return _CARD in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def build_backbone(settings: VitSettings, tensors: Mapping[str, Tensor], source: Path) -> VisionTransformer:
    """A backbone with the given tensors by name: eval mode, float32.

    Raises:
        UserError: names the first tensors that are missing, unknown, of another shape or not finite, and the file
            `source`.
    """
    with torch.device("meta"):
        backbone = VisionTransformer(settings)
    expected = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.is_floating_point()}
    problems = [
        f"{name} is {_shape(given.get(name))} where {_shape(expected.get(name))} is expected"
        for name in sorted(expected.keys() | given.keys())
        if given.get(name) != expected.get(name)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{source} does not match its architecture: {'; '.join(problems[:3])}{more}")
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    check_finite(weights, source)
    backbone.load_state_dict(weights, assign=True)
    return backbone.eval()


def read_card(path: Path) -> dict[str, Any]:
    """The card of a file of `save_backbone`; empty for a safetensors file without one.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(path)[0]


def backbone_sha256(backbone: VisionTransformer) -> str:
    """Hex SHA-256 of names, shapes and float32 values of the weights, whatever their card."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    metadata, tensors = read_safetensors(path, _ADVICE)
    with reading(f"the {_CARD} of {path}", "a JSON object", _ADVICE):
        card: dict[str, Any] = dict(json.loads(metadata.get(_CARD, "{}")))
    return card, tensors


def _architecture(card: Mapping[str, Any], path: Path) -> VitSettings:
    try:
        return VitSettings.model_validate(card["architecture"])
    except (KeyError, ValidationError) as error:
        raise UserError(f"{path} is a safetensors file without the description of a backbone; {_HINT}") from error


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
