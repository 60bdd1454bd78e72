"""`make bench-eval`: milliseconds per frame of features, propagation and scoring, beside straightforward versions.

The straightforward versions are the references of the tests: one frame at a time, the full affinity matrix, the
boundary measure by dilation. Each round times all of them, so that other load on the machine affects all alike; a
ratio is the median over the rounds. With `--data` and `--weights`, DAVIS is also scored in both precisions.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from tqdm import tqdm

from benchmarks.evaluation_reference import boundary_measure_by_dilation, propagate_fully
from benchmarks.result import print_table, write_result
from evaluation.backbones import Precision, extractor_of, open_checkpoint
from evaluation.benchmark import Task
from evaluation.command import select_device
from evaluation.davis import DAVIS, Davis, DavisScoring
from evaluation.davis_scores import boundary_measure
from evaluation.evaluate import evaluate_clips, open_clips, propagated, summarize
from evaluation.frames import Size
from evaluation.masks import MaskPropagation
from evaluation.propagation import PropagationSettings, propagate
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Command, UserError, run_command
from training.backbone.numerics import pin_float32
from training.backbone.vit import VisionTransformer, VitSettings, random_backbone


class EvaluationBenchmark(Command):
    """Measure the time of the evaluation per frame of DAVIS, and how bf16 changes the scores."""

    program: ClassVar[str] = "python -m benchmarks.evaluation"

    out: Path = Path("benchmarks/results/evaluation.json")
    """Result file."""
    size: Size = (480, 880)
    """Height and width of the network's input."""
    rounds: int = Field(3, ge=1, le=COUNT_LIMIT)
    """Rounds; the median counts."""
    batch_size: int = Field(4, ge=1, le=BATCH_LIMIT)
    """Frames that pass the network at once."""
    device: str = "auto"
    """Where features and propagation run: auto, cpu, cuda or cuda:N."""
    backbone: VitSettings = VitSettings(architecture="small")
    """Sizes of the network; its parameters are random, on which the time does not depend."""
    data: Path | None = None
    """DAVIS folder to score in float32 and in bf16."""
    weights: Path | None = None
    """Weights to score."""
    sequences: tuple[str, ...] = ()
    """Only these sequences."""


def clock(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds that `work` takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started)


def blobs(frames: int, size: tuple[int, int] = (480, 854)) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Masks (frames, 2, H, W) of a wobbling disk and of a slightly wrong prediction of it."""
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.empty((frames, 2, *size), bool)
    for number in range(frames):
        angle = np.arctan2(y - 240, x - 300 - 10 * number)
        distance = np.hypot(y - 240, x - 300 - 10 * number)
        for side in range(2):
            masks[number, side] = distance < 110 + 18 * np.sin(5 * angle + number) + side * 9 * np.cos(11 * angle)
    return masks


@torch.no_grad()
def measure(command: EvaluationBenchmark, device: torch.device) -> dict[str, float]:
    """Median milliseconds per frame of each version, and median ratios."""
    backbone: VisionTransformer = random_backbone(command.backbone, 0).to(device)
    patch = command.backbone.patch_size
    grid = (command.size[0] // patch, command.size[1] // patch)
    images = torch.randn(command.batch_size, 3, *command.size, device=device)
    features = torch.randn(3, *grid, command.backbone.width, device=device)
    labels = torch.rand(*grid, 4, device=device)
    settings = PropagationSettings()
    masks = blobs(4)

    def extract(precision: Precision, batch_size: int) -> None:
        for _ in extractor_of(backbone, device, precision).stream(images, batch_size):
            pass

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "features, batched": (len(images), lambda: extract("fp32", command.batch_size)),
        "features, one by one": (len(images), lambda: extract("fp32", 1)),
        "features, batched, bf16": (len(images), lambda: extract("bf16", command.batch_size)),
        "propagation": (2, lambda: list(propagate(features, labels, settings))),
        "propagation, full matrix": (2, lambda: propagate_fully(features, labels, settings)),
        "boundary measure": (len(masks), lambda: [boundary_measure(*pair) for pair in masks]),
        "boundary measure, thickening": (len(masks), lambda: [boundary_measure_by_dilation(*pair) for pair in masks]),
    }
    rounds: list[dict[str, float]] = []
    for number in tqdm(range(command.rounds + 1), unit="round", desc="evaluation"):
        times = {name: clock(work, device) / frames for name, (frames, work) in ways.items()}
        rounds += [times] if number else []  # the first one warms up
    figures = {name: median(times[name] for times in rounds) for name in ways}
    for name, plain in (
        ("features, batched", "features, one by one"),
        ("features, batched, bf16", "features, batched"),
        ("propagation", "propagation, full matrix"),
        ("boundary measure", "boundary measure, thickening"),
    ):
        figures[f"ratio: {name}"] = median(times[plain] / times[name] for times in rounds)
    return figures


def score_precisions(command: EvaluationBenchmark, data: Path, weights: Path) -> dict[str, Any]:
    """Scores of DAVIS in float32 and in bf16, in percent.

    Raises:
        UserError: data or weights are not usable.
    """
    dataset = Davis(data=data, sequences=command.sequences)
    task = Task(DAVIS.name, DAVIS.title, dataset, DavisScoring())
    opened = open_clips(task, dataset.names())
    scores = {}
    for precision in ("fp32", "bf16"):
        checkpoint = open_checkpoint(weights, precision, device=select_device(command.device), precision=precision)
        predict = propagated(MaskPropagation(size=command.size), checkpoint.extractor, command.batch_size)
        results = evaluate_clips(task, opened, predict, workers=4, label=precision)
        if (row := summarize(task, results)["scores"]) is None:
            raise UserError(f"no sequence in {data} could be scored")
        scores[precision] = {column: 100 * value for column, value in row.items()}
    return scores


def main(command: EvaluationBenchmark) -> None:
    """Measure, print and write."""
    pin_float32()
    device = select_device(command.device)
    if (command.data is None) != (command.weights is None):
        raise UserError("give --data and --weights together, or neither")
    figures: dict[str, Any] = dict(measure(command, device))
    rows = [
        (name, f"{value:.2f} times as fast" if name.startswith("ratio") else f"{value:.2f} ms a frame")
        for name, value in figures.items()
    ]
    if command.data is not None and command.weights is not None:
        figures["scores"] = score_precisions(command, command.data, command.weights)
        rows += [
            (f"DAVIS, {precision}", ", ".join(f"{column} {value:.2f}" for column, value in row.items()))
            for precision, row in figures["scores"].items()
        ]
    figures |= {"size": command.size, "threads": torch.get_num_threads(), "device": str(device)}
    write_result(command.out, figures)
    print_table([*rows, ("written to", str(command.out))], "Evaluation")


if __name__ == "__main__":
    run_command(EvaluationBenchmark, main)
