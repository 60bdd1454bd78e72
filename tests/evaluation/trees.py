"""DAVIS, VIP and JHMDB trees made by code, a network that needs no weights, and the programs on both."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image

from evaluation import program
from evaluation.backbones import Checkpoint, Extractor
from evaluation.benchmark import Benchmark
from evaluation.command import EvaluationCommand, evaluation_command, score_command
from evaluation.pictures import save_mask
from tests.reference_data import read_arrays

Frames = NDArray[np.uint8]
NO_REPORT = {"enabled": False}
T_CORE = {
    "n_context": 20,
    "top_k": 7,
    "radius": 20.0,
    "neighborhood": "open-circle",
    "limit_first_frame": False,
    "pad_context": True,
    "temperature": 0.7,
}
"""Constants of propagation in the protocol of T-CoRe."""


def evaluate(benchmark: Benchmark, data: Path, /, *, status: int = 0, **options: Any) -> dict[str, Any]:
    """Score weights into the folder `out` beside `data`; returns the content of the result file."""
    chosen: dict[str, Any] = {"data": data, "weights": "none", "out": data.parent / "out", "report": NO_REPORT}
    assert program.run_weights(benchmark, evaluation_command(benchmark)(**(chosen | options))) == status
    result: dict[str, Any] = json.loads((data.parent / "out" / f"{benchmark.name}.json").read_text())
    return result


def score(
    benchmark: Benchmark, data: Path, predictions: Path | None = None, *, status: int = 0, **options: Any
) -> dict[str, Any]:
    """Score predictions, by default those of `evaluate`, into the folder `scored` beside `data`."""
    predictions, out = predictions or data.parent / "out" / "predictions", data.parent / "scored"
    chosen: dict[str, Any] = {"data": data, "predictions": predictions, "out": out, "report": NO_REPORT}
    assert program.run_predictions(benchmark, score_command(benchmark)(**(chosen | options))) == status
    result: dict[str, Any] = json.loads((out / f"{benchmark.name}.json").read_text())
    return result


def write_sequence(root: Path, name: str, frames: Frames, masks: Mapping[int, Frames]) -> None:
    """Add frames (T, H, W, 3) and masks (H, W) to a DAVIS tree; frames are lossless (PNG data in .jpg files)."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / name).mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(root / "JPEGImages" / "480p" / name / f"{number:05d}.jpg", format="PNG")
    for number, mask in masks.items():
        save_mask(root / "Annotations" / "480p" / name / f"{number:05d}.png", mask)
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / "val.txt").open("a") as stream:
        stream.write(f"{name}\n")


def moving_squares(num_frames: int, ids: tuple[int, ...] = (1, 2)) -> tuple[Frames, Frames]:
    """Frames (T, 96, 160, 3) of colored squares that move over gray noise, and their masks (T, 96, 160)."""
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (256, 3))
    frames = np.repeat(random.integers(90, 130, (1, 96, 160, 1), np.uint8), 3, 3).repeat(num_frames, 0)
    masks = np.zeros((num_frames, 96, 160), np.uint8)
    for number in range(num_frames):
        for index, one in enumerate(ids):
            top, left = 8 + 48 * index, 16 + 4 * number
            masks[number, top : top + 32, left : left + 48] = one
            frames[number, top : top + 32, left : left + 48] = colors[one]
    return frames, masks


def patch_filter_extractor() -> Extractor:
    """The recorded patch filter, a single convolution (D, 3, 16, 16) of stride 16, in place of a backbone."""
    kernel = torch.from_numpy(read_arrays("eval_end_to_end")["patch_filter"])

    def patch_tokens(images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, kernel, stride=16).flatten(2).transpose(1, 2)

    return Extractor(patch_tokens, 16, torch.device("cpu"))


def use_patch_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every checkpoint that the programs open by the recorded patch filter."""

    def open_checkpoints(command: EvaluationCommand) -> list[Checkpoint]:
        extractor = patch_filter_extractor()
        return [
            Checkpoint(f"filter-{number}", path, extractor, {"path": str(path)}, torch.nn.Identity())
            for number, path in enumerate(command.weights)
        ]

    monkeypatch.setattr(program, "open_checkpoints", open_checkpoints)


def store_turned(path: Path) -> None:
    """Store the pixels of a frame turned by 90 degrees, with the EXIF orientation that undoes it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, format="PNG", exif=exif)


def write_vip_clip(root: Path, name: str, frames: Frames, masks: Mapping[int, Frames]) -> None:
    """Add a clip to a VIP tree, whose frames count from 1."""
    for folder in ("Images", "Annotations/Category_ids"):
        (root / folder / name).mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(root / "Images" / name / f"{number:012d}.jpg", format="PNG")
    for number, mask in masks.items():
        Image.fromarray(mask).save(root / "Annotations/Category_ids" / name / f"{number + 1:012d}.png")
    (root / "lists").mkdir(exist_ok=True)
    with (root / "lists" / "val_videos.txt").open("a") as stream:
        stream.write(f"{name}\n")


def write_jhmdb_clip(root: Path, name: str, frames: Frames, joints: NDArray[np.float64]) -> None:
    """Add a clip CLASS/NAME with one-based joints (2, 15, T) to a JHMDB tree, in the test set of split 1."""
    class_name, clip = name.split("/")
    for folder in ("Rename_Images", "joint_positions"):
        (root / folder / name).mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(root / "Rename_Images" / name / f"{number:05d}.png")
    scipy.io.savemat(root / "joint_positions" / name / "joint_positions.mat", {"pos_img": joints})
    (root / "splits").mkdir(exist_ok=True)
    with (root / "splits" / f"{class_name}_test_split1.txt").open("a") as stream:
        stream.write(f"{clip}.avi 2\nanother_clip.avi 1\n")
