"""`make bench-train`: time and memory of our training step and of the reference step, in one run.

The reference step has K-wide logits and skips no work (`benchmarks/reference_step.py`). Both train on the same random
batch of real sizes, in turns, each in a process of its own. On the CPU the memory is the peak resident size of the
process, libraries included; freed tensors are returned to the system at once (`MALLOC_MMAP_THRESHOLD_`), or holes in
the heap would count too.
Without `--compare` our step alone is measured: on a GPU in bf16, with its model FLOP utilization and the hours of the
paper's run.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from benchmarks.flops import utilization
from benchmarks.reference_step import ReferenceTCoRe
from benchmarks.result import print_table, write_result
from pipeline.reader.batch import Batch
from pipeline.sampling.masks import MaskSettings, draw_masks, mask_sizes
from pipeline.sampling.views import ViewSettings
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Command, UserError, run_command
from training.backbone.numerics import pin_float32
from training.metrics import peak_memory_gb
from training.model import TCoRe, TCoReSettings
from training.optimizer import OptimizerSettings, apply_schedule, build_optimizer, clip_gradients
from training.recompute import Recompute, recompute_activations
from training.schedules import StepValues

KINETICS_CLIPS = 239_789
"""Clips of Kinetics-400 for training (paper, section 4.1)."""
PAPER_EPOCHS = {"small": 400, "base": 200}
"""Length of the paper's runs on Kinetics-400."""
VALUES = StepValues(1e-4, 1e-4, 1e-5, weight_decay=0.04, momentum=0.996, teacher_temperature=0.05)


Form = Literal["ours", "reference"]
Figures = dict[str, Any]


class StepCommand(Command):
    """A training step on random data."""

    architecture: Literal["tiny", "small", "base", "large"] = "small"
    """Backbone."""
    batch_size: int = Field(4, ge=1, le=BATCH_LIMIT)
    """Clips in a batch."""
    prototypes: int = Field(65536, ge=2, le=2**24)
    """Prototypes K."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the steps are taken."""
    precision: Literal["no", "bf16"] = "no"
    """bf16: the matrix products in bfloat16, as in training."""
    compile: bool = False
    """Whether torch.compile fuses the blocks of the backbones and the losses."""
    recompute: Recompute = "none"
    """Activations of the student's blocks that are computed again in the backward pass, as in training."""


class TrainBenchmark(StepCommand):
    """Measure our training step; with --compare also its seconds and peak memory relative to the reference step."""

    program: ClassVar[str] = "python -m benchmarks.train"

    out: Path = Path("benchmarks/results/train.json")
    """Result file."""
    compare: bool = False
    """Measure the reference step as well, in turns with ours."""
    rounds: int = Field(3, ge=1, le=COUNT_LIMIT)
    """Turns of each of the two steps; the median counts."""
    steps: int = Field(2, ge=1, le=COUNT_LIMIT)
    """Steps that are timed in a turn, after one for warm-up."""


def random_batch(batch_size: int, views: ViewSettings, device: str) -> Batch:
    """Noise in the shapes of a real batch, with masks drawn as in training."""
    generator = torch.Generator().manual_seed(0)

    def crops(count: int, size: int) -> Tensor:
        return torch.randn(count * batch_size, 3, size, size, generator=generator).to(device)

    side = views.global_size // 16
    sizes = mask_sizes(MaskSettings(), 0, 0, 2 * batch_size, side * side)
    masks = draw_masks(sizes, np.arange(2 * batch_size), 0, 0, (side, side))
    return Batch(
        crops(2, views.global_size),
        crops(views.local_crops, views.local_size),
        (crops(2, views.global_size), crops(2, views.global_size)),
        torch.from_numpy(masks),
    )


def train_step(model: TCoRe, optimizer: torch.optim.Optimizer, batch: Batch, bf16: bool) -> None:
    """One whole training step."""
    apply_schedule(optimizer, VALUES)
    with torch.autocast(batch.global_crops.device.type, torch.bfloat16, enabled=bf16):
        total = model(batch, VALUES.teacher_temperature).losses["total"]
    total.backward()
    clip_gradients(model, 3.0)
    optimizer.step()
    optimizer.zero_grad()
    model.update_teacher(VALUES.momentum)
    model.apply_center_update()


def model_settings(command: StepCommand) -> TCoReSettings:
    """The model whose steps are measured."""
    chosen = {"backbone": {"architecture": command.architecture}, "head": {"prototypes": command.prototypes}}
    return TCoReSettings.model_validate(chosen)


def build_step(command: StepCommand, form: Form = "ours") -> Callable[[], None]:
    """A model with its optimizer and batch, of which each call takes one training step."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    pin_float32()
    device = torch.device(command.device)
    model = (TCoRe if form == "ours" else ReferenceTCoRe)(model_settings(command)).to(device)
    recompute_activations(model.student.backbone.blocks, command.recompute)
    if command.compile:
        model.compile_parts()
    optimizer = build_optimizer(model, OptimizerSettings())
    batch = random_batch(command.batch_size, ViewSettings(), command.device)
    return lambda: train_step(model, optimizer, batch, command.precision == "bf16")


def measure(command: TrainBenchmark, form: Form = "ours") -> dict[str, float]:
    """Seconds of a step (median) and peak memory of a process that does nothing else."""
    step, device = build_step(command, form), torch.device(command.device)
    seconds = []
    for _ in range(1 + command.steps):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": float(np.median(seconds[1:])), "peak_gb": peak_memory_gb(device)}


def projected_hours(architecture: str, batch_size: int, seconds: float) -> float:
    """Hours of the paper's run on Kinetics-400 at `seconds` a step."""
    return PAPER_EPOCHS[architecture] * (KINETICS_CLIPS // batch_size) * seconds / 3600


def alone(command: TrainBenchmark) -> tuple[Figures, list[tuple[str, str]]]:
    """Figures and table rows of our step alone."""
    figures: Figures = dict(measure(command))
    rows = [("seconds a step", f"{figures['seconds']:.3f}"), ("peak memory, GB", f"{figures['peak_gb']:.2f}")]
    if command.device == "cuda":
        figures["gpu"] = torch.cuda.get_device_name()
        figures["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        rows.append(("reserved by torch, GB", f"{figures['reserved_gb']:.2f}"))
        mfu = utilization(model_settings(command), command.batch_size, figures["seconds"], figures["gpu"])
        if mfu is not None and command.precision == "bf16":
            figures["mfu"] = mfu
            rows.append(("model FLOP utilization", f"{100 * mfu:.1f} %"))
    if command.architecture in PAPER_EPOCHS:
        hours = projected_hours(command.architecture, command.batch_size, figures["seconds"])
        figures["projected_hours"] = hours
        rows.append((f"{PAPER_EPOCHS[command.architecture]} epochs of Kinetics-400", f"{hours:.1f} h, projected"))
    return figures, rows


def compare(command: TrainBenchmark) -> tuple[Figures, list[tuple[str, str]]]:
    """Figures and table rows of both steps, each turn in a fresh process."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    forms: tuple[Form, ...] = ("reference", "ours")
    turns: dict[str, list[dict[str, float]]] = {form: [] for form in forms}
    for form in tqdm(forms * command.rounds, unit="turn", desc="training steps"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            turns[form].append(pool.apply(measure, (command, form)))
    seconds, memory = (
        {form: float(np.median([turn[key] for turn in turns[form]])) for form in forms}
        for key in ("seconds", "peak_gb")
    )
    figures: Figures = {
        "seconds": seconds,
        "peak_gb": memory,
        "time_ratio": seconds["ours"] / seconds["reference"],
        "memory_ratio": memory["ours"] / memory["reference"],
        "turns": turns,
    }
    return figures, [
        (name, f"{ours:.2f} ours, {reference:.2f} reference: {ratio:.2f}")
        for name, ours, reference, ratio in (
            ("seconds a step", seconds["ours"], seconds["reference"], figures["time_ratio"]),
            ("peak memory, GB", memory["ours"], memory["reference"], figures["memory_ratio"]),
        )
    ]


def main(command: TrainBenchmark) -> None:
    """Measure, print and write."""
    if command.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device = cuda, but torch finds no NVIDIA GPU here: choose cpu")
    figures, rows = compare(command) if command.compare else alone(command)
    chosen = ("architecture", "batch_size", "prototypes", "device", "precision", "compile", "recompute")
    write_result(command.out, {**{name: getattr(command, name) for name in chosen}, **figures})
    how = f"batch {command.batch_size}, {'bf16' if command.precision == 'bf16' else 'float32'} on {command.device}"
    print_table([*rows, ("written to", str(command.out))], f"Training step, {command.architecture}, {how}")


if __name__ == "__main__":
    run_command(TrainBenchmark, main)
