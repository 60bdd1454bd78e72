"""Training, features and evaluation on one GPU, or on a pretended one: nothing mixes devices, results are the CPU's.

`test_placement.py` runs this file in a process of its own, which has the device.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from benchmarks.made_shards import make_shards
from evaluation.backbones import extractor_of
from evaluation.cls_attention import cls_attention
from evaluation.davis import Davis
from evaluation.evaluate import propagated
from evaluation.jhmdb import Jhmdb, JointPropagation
from evaluation.knn_during_training import KnnDuringTraining
from evaluation.linear import accuracy, train_heads
from evaluation.masks import MaskPropagation
from evaluation.tapvid import PointPropagation, TapVid
from indexing.extract import ShardFeatures
from pipeline.settings import UserError, parse_command
from pipeline.storage import open_storage
from tests.device import guard, pretend
from tests.evaluation.test_jhmdb import joints
from tests.evaluation.test_linear import linear_command, made
from tests.evaluation.test_tapvid import made_video, write
from tests.evaluation.trees import moving_squares, write_jhmdb_clip, write_sequence
from tests.indexing.made import write_colors
from tests.training.forks import words
from tests.training.recorded import recorded_model, recorded_views
from tests.training.test_pretrain import OVERFLOWING, SMALL
from training.attention_maps import ClipFrames, cross_attention
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone
from training.checkpoint import CHECKPOINTS, checkpoints
from training.metrics import read_metrics
from training.origin import Origin
from training.pretrain import PretrainCommand
from training.signals import SignalHandler
from training.start import start_ranks
from training.trainer import Trainer

WAITS = 1
"""Most waits of the host for the device in a step that is not logged."""
SHORT: dict[str, object] = {
    **{"train.epochs": 1, "train.steps_per_epoch": 3, "train.log_every": 100},
    **{"train.trackers": "[]", "train.report": False, "data.backend": "dali"},
}
RUNS: dict[str, dict[str, object]] = {
    "float32": {"train.maps_every": 2},
    "bfloat16": {"train.precision": "bf16", "train.recompute": "selective"},
    "micro-batches, views by torch": {
        "train.micro_batch_size": 3,
        "train.recompute": "full",
        "data.backend": "torch",
    },
    "separate heads": {"model.separate_heads": True, "data.sandwich.auxiliary": '["past"]', "train.precision": "bf16"},
    "no auxiliary branch": {"model.auxiliary_branch": False, "data.sandwich.auxiliary": "[]"},
    "all crops masked": {"data.masks.probability": 1},
    "no crop masked": {"data.masks.probability": 0},
}
REAL = guard.VARIABLE not in os.environ
TOLERANCE = 0.02 if REAL else 1e-4
"""Relative, of results on the device against those of the CPU: a GPU decodes JPEGs and sums in other ways."""
BFLOAT16_TOLERANCE = 0.1


@contextlib.contextmanager
def on_device() -> Iterator[list[str]]:
    """Context in which PyTorch has the device; yields the waits of the host so far."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with real_device() if REAL else pretend.pretended() as waits:
            yield waits
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def real_device() -> Iterator[list[str]]:
    waits: list[str] = []

    def note(message: Warning | str, category: object, file: str, line: int, *_: object) -> None:
        if "synchronizing CUDA operation" in str(message):
            waits.append(f"{message}: {file}:{line}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), 6, frames=8, size=(96, 80), per_shard=3)


def command(shards: Path, out: Path, options: dict[str, object]) -> PretrainCommand:
    whole = SMALL | SHORT | {"data.shards": shards, "out": out, "model.backbone.drop_path": 0} | options
    return parse_command(PretrainCommand, words(whole))


def fit(command: PretrainCommand, waits: list[str]) -> list[list[str]]:
    """Train from the newest checkpoint to the end; returns the waits of each step."""
    of_steps = []

    class Counted(Trainer):
        def train_step(self, *arguments: Any) -> int:
            before = len(waits)
            signal = super().train_step(*arguments)
            of_steps.append(waits[before:])
            return signal

    with SignalHandler() as signals:
        Counted(command, start_ranks(command), Origin()).fit(signals)
    return of_steps


def results(out: Path) -> dict[str, float]:
    """Losses and measures of the logged steps."""
    kept = ("loss/", "gradient_norm/", "target_entropy/", "features/", "center_norm/")
    lines = read_metrics(out)
    return {f"{name} of step {line['step']}": line[name] for line in lines for name in line if name.startswith(kept)}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_losses_of_the_cpu_and_waits_once_a_step(name: str, clips: Path, tmp_path: Path) -> None:
    on_cpu = command(clips, tmp_path / "cpu", RUNS[name])
    fit(on_cpu, [])
    run = command(clips, tmp_path / "run", RUNS[name])
    with on_device() as waits:
        _, waits_of_step, _ = fit(run, waits)  # the first step and the last one are logged
    tolerance = BFLOAT16_TOLERANCE if run.train.precision == "bf16" else TOLERANCE
    assert results(run.out) == pytest.approx(results(on_cpu.out), rel=tolerance, abs=1e-5)
    assert len(waits_of_step) <= WAITS, "\n".join([f"{len(waits_of_step)} waits:", *waits_of_step])


def test_a_run_continues_from_a_checkpoint(clips: Path, tmp_path: Path) -> None:
    options: dict[str, object] = {"train.checkpoint_every": 2}
    run, uninterrupted = (command(clips, tmp_path / name, options) for name in ("run", "uninterrupted"))
    with on_device() as waits:
        fit(uninterrupted, waits)
    shutil.copytree(uninterrupted.out, run.out)
    shutil.rmtree(checkpoints(run.out)[-1])
    with on_device() as waits:
        assert len(fit(run, waits)) == 1
    ours, theirs = (load_file(checkpoints(out)[-1] / "model.safetensors") for out in (run.out, uninterrupted.out))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=TOLERANCE, atol=1e-6, msg=name)


def test_a_step_that_is_not_finite_is_reported_and_saved(clips: Path, tmp_path: Path) -> None:
    run = command(clips, tmp_path / "run", {**OVERFLOWING, "train.nonfinite_steps": 2})
    with on_device() as waits, pytest.raises(UserError, match=r"not finite in step 1: .*gradient of the backbone"):
        fit(run, waits)
    assert len(list((run.out / "nonfinite").glob("step-*-rank-0.json"))) == 2
    assert (run.out / "nonfinite" / CHECKPOINTS / "step-00000001").is_dir()


def test_attention_maps_are_those_of_the_cpu() -> None:
    rng = np.random.default_rng(0)
    clip = ClipFrames("key", list(rng.integers(0, 256, (3, 64, 64, 3), np.uint8)), recorded_views().masks[0].numpy())
    model = recorded_model()
    expected = cross_attention(model, clip)
    with on_device():
        result = cross_attention(model.to("cuda"), clip)
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE, atol=1e-6)


def test_features_are_those_of_the_cpu(clips: Path, tmp_path: Path) -> None:
    settings = VitSettings(width=32, depth=2, heads=2, image_size=64, layer_scale=1.0)
    save_backbone(tmp_path / "weights.safetensors", random_backbone(settings, seed=1), {})

    def features(name: str) -> np.ndarray:
        out = open_storage(str(tmp_path / name))
        return ShardFeatures(clips, tmp_path / "weights.safetensors", out, 4, 1).features(np.arange(6)).astype(float)

    expected = features("cpu")
    with on_device():
        result = features("device")
    assert ((result * expected).sum(axis=1) > 1 - TOLERANCE).all()


def test_probes_are_those_of_the_cpu(tmp_path: Path) -> None:
    train, test = write_colors(tmp_path / "train", 25, "train{}"), write_colors(tmp_path / "test", 5, "test{}")
    backbone = random_backbone(VitSettings(width=32, depth=1, heads=2, image_size=32, layer_scale=1.0), 0)

    def scores(device: torch.device) -> dict[str, float]:
        scorer = KnnDuringTraining(train, test, frames=1, samples=None, batch_size=8, device=device)
        return scorer.score(backbone.to(device).eval())[0]

    samples, options = made(), linear_command(rates=(0.01, 0.1), steps=5, head_batch_size=16)
    expected, expected_heads = scores(torch.device("cpu")), train_heads(samples, 4, options, torch.device("cpu"))
    with on_device():
        result, heads = scores(torch.device("cuda", 0)), train_heads(samples, 4, options, torch.device("cuda", 0))
        shares = accuracy(heads, samples)
        weight = heads.weight.cpu().numpy()
    assert result == expected
    np.testing.assert_allclose(weight, expected_heads.weight, rtol=TOLERANCE, atol=1e-5)
    np.testing.assert_allclose(shares, accuracy(expected_heads, samples), atol=0.03)


def test_propagated_masks_joints_and_points_are_those_of_the_cpu(tmp_path: Path) -> None:
    frames, masks = moving_squares(4)
    write_sequence(tmp_path / "davis", "one", frames, dict(enumerate(masks)))
    write_jhmdb_clip(tmp_path / "jhmdb", "catch/one", frames, joints(4))
    tasks: list[tuple[Any, Any]] = [
        (MaskPropagation(size=(96, 160)), Davis(data=tmp_path / "davis").open("one")),
        (JointPropagation(size=(96, 160), top_cells=60), Jhmdb(data=tmp_path / "jhmdb").open("catch/one")),
        (PointPropagation(size=(64, 64)), TapVid(data=write(tmp_path / "tapvid", {"one": made_video()})).open("one")),
    ]
    backbone = random_backbone(VitSettings(width=64, depth=2, heads=2, layer_scale=1.0), 0)

    def predictions(device: str) -> list[np.ndarray]:
        extractor = extractor_of(backbone.to(device), torch.device(device))
        with ThreadPoolExecutor(2) as pool:
            return [array for task, clip in tasks for _, array in propagated(task, extractor, 2)(clip, pool)]

    expected, expected_map = predictions("cpu"), cls_attention(backbone, torch.ones(3, 64, 64))
    with on_device():
        result = predictions("cuda")
        attention = cls_attention(backbone, torch.ones(3, 64, 64).to("cuda"))
    for ours, theirs in zip(result, expected, strict=True):
        assert (np.abs(ours - theirs) >= 1).mean() < 0.02  # ids, or pixels; NaN where a point has no position
    np.testing.assert_allclose(attention, expected_map, rtol=TOLERANCE)
