"""The recorded training step of the authors' code as tensors and models (see `tests/reference/README.md`)."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import sha256_file
from pipeline.reader.batch import Batch
from tests.reference_data import read_arrays
from training.backbone.vit import VisionTransformer, VitSettings
from training.head import HeadSettings
from training.model import TCoRe, TCoReSettings
from training.pmm import PmmSettings
from training.schedules import StepValues
from training.start import missing_compiler

TINY_VIT = VitSettings(width=64, depth=2, heads=4, image_size=64, drop_path=0)

needs_compiler = pytest.mark.skipif(bool(missing_compiler(os.environ, "cpu")), reason="no C++ compiler for inductor")

OUR_NAMES = {
    ".dino_head.": ".cls_head.",
    "auxiliary.auxiliary_decoder.decoder.": "pmm.layers.",
    ".auxiliary_cross_attn.": ".cross_attn.",
    ".auxiliary_self_attn.": ".self_attn.",
    ".auxiliary_layer_norm": ".norm",
    ".auxiliary_linear.": ".linear.",
    "dino_loss.center": "cls_center.center",
    "ibot_patch_loss.center": "patch_center.center",
}
"""Parts of the parameter names of the authors' code, and ours."""


def our_name(official: str) -> str:
    """The name here of a parameter or buffer of the authors' code."""
    for theirs, ours in OUR_NAMES.items():
        official = official.replace(theirs, ours)
    return official


@functools.cache
def recorded(name: str) -> dict[str, Tensor]:
    """All arrays of `NAME.npz` as tensors, with our names of parameters."""
    return {our_name(key): torch.as_tensor(array) for key, array in read_arrays(name).items()}


def recorded_backbone(prefix: str, settings: VitSettings = TINY_VIT) -> VisionTransformer:
    """The recorded backbone under `prefix` ("student.backbone." or "teacher.backbone."), in eval mode."""
    backbone = VisionTransformer(settings).eval()
    state = recorded("train_step_state")
    backbone.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return backbone


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """The largest deviation is below `tolerance` times the largest expected magnitude."""
    assert actual.shape == expected.shape
    deviation = (actual.detach().double() - expected.double()).abs().max().item()
    assert deviation <= tolerance * expected.abs().max().item()


TINY_MODEL = TCoReSettings(
    backbone=TINY_VIT,
    head=HeadSettings(hidden=64, bottleneck=32, prototypes=256),
    pmm=PmmSettings(cross_attention_factor=4.0),
)


def recorded_model(settings: TCoReSettings = TINY_MODEL) -> TCoRe:
    """The model of the recorded step, before the step; parts that `settings` leave out are left out."""
    model = TCoRe(settings)
    expected = model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in recorded("train_step_state").items() if name in expected})
    return model


def write_checkpoint(folder: Path, model: TCoRe, config: dict[str, Any], step: int = 7, prefix: str = "") -> Path:
    """A checkpoint of a model as a run leaves it, but for the optimizer's state, which no export needs."""
    folder.mkdir(parents=True)
    state = {prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": model.settings.model_dump(mode="json"), **config}))
    return seal(folder, step)


def seal(folder: Path, step: int = 7) -> Path:
    """Write the hashes of a checkpoint's files, so that a reader takes them for what was written."""
    hashes = {name: sha256_file(folder / name) for name in ("model.safetensors", "config.json")}
    (folder / "state.json").write_text(json.dumps({"step": step, "sha256": hashes}))
    return folder


def recorded_views() -> Batch:
    """The batch of the recorded step."""
    step = recorded("train_step")
    return Batch(
        global_crops=step["in/collated_global_crops"],
        local_crops=step["in/collated_local_crops"],
        auxiliary=(step["in/collated_global_crops_past"], step["in/collated_global_crops_future"]),
        masks=step["in/collated_masks"],
    )


def recorded_values() -> StepValues:
    """The schedule values of the recorded step."""
    names = ("lr", "last_layer_lr", "aux_lr", "wd", "mom", "teacher_temp")
    return StepValues(*(recorded("train_step")[f"hp/{name}"].item() for name in names))


def without_key_biases(name: str, tensor: Tensor) -> Tensor:
    """The tensor without the biases of attention keys.

    Their gradient is zero in exact arithmetic, so AdamW turns rounding noise into steps of full size.
    """
    if name.endswith(("qkv.bias", "in_proj_bias")):
        query, _, value = tensor.chunk(3)
        return torch.cat([query, value])
    return tensor
