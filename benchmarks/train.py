"""`make bench-train`: time and peak memory of a training step, lean against plain, in one run.

The plain step has K-wide logits and leaves no work out (`benchmarks/plain.py`). Both take the same random batch at real
sizes, each in a process of its own, in turns. On the CPU the memory is the largest resident size of the process, with
its libraries; freed tensors go back to the system at once (`MALLOC_MMAP_THRESHOLD_`), else holes in the heap count too.
With a GPU, lean steps of the paper's runs are measured as well: model FLOP utilisation and the hours of the run.
"""

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from benchmarks.plain import PlainTCoRe
from benchmarks.result import print_table, write_result
from pipeline.reader.batch import Batch
from pipeline.reader.masks import MaskSettings, draw_masks, mask_sizes
from pipeline.reader.views import ViewSettings
from pipeline.settings import Command, run_command
from training.metrics import peak_memory_gb
from training.model import TCoRe, TCoReSettings
from training.optimiser import OptimiserSettings, apply_schedule, build_optimiser, clip_gradients
from training.schedules import StepValues
from training.vit import VitSettings

KINETICS_CLIPS = 239_789
"""Clips of Kinetics-400 for training (paper, section 4.1)."""
PAPER_EPOCHS = {"small": 400, "base": 200}
"""Length of the paper's runs on Kinetics-400."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s that the makers of the GPUs state."""
VALUES = StepValues(1e-4, 1e-4, 1e-5, weight_decay=0.04, momentum=0.996, teacher_temperature=0.05)


class TrainBenchmark(Command):
    """Measure the training step: seconds and peak memory of the lean form over those of the plain one."""

    program: ClassVar[str] = "python -m benchmarks.train"

    out: Path = Path("benchmarks/results/train.json")
    """Result file."""
    architecture: Literal["tiny", "small", "base", "large"] = "small"
    """Backbone of the comparison."""
    batch_size: int = Field(4, ge=1)
    """Clips in a batch of the comparison."""
    prototypes: int = Field(65536, ge=2)
    """Prototypes K."""
    rounds: int = Field(3, ge=1)
    """How often the two forms take turns; the median counts."""
    steps: int = Field(2, ge=1)
    """Steps that are timed in a turn, after one that is not."""


class Case(NamedTuple):
    """One measurement."""

    form: Literal["lean", "plain"]
    settings: TCoReSettings
    batch_size: int
    steps: int
    device: str
    precision: Literal["float32", "bf16"]
    compiled: bool = False


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
        torch.from_numpy(masks).to(device),
    )


def take_step(model: TCoRe, optimiser: torch.optim.Optimizer, batch: Batch, precision: str) -> None:
    """One whole training step."""
    apply_schedule(optimiser, VALUES)
    with torch.autocast(batch.masks.device.type, torch.bfloat16, enabled=precision == "bf16"):
        total = model(batch, VALUES.teacher_temperature).terms["total"]
    total.backward()
    clip_gradients(model, 3.0)
    optimiser.step()
    optimiser.zero_grad()
    model.update_teacher(VALUES.momentum)
    model.apply_centre_update()


def measure(case: Case) -> dict[str, float]:
    """Seconds of a step (median) and the largest memory of a process that does nothing else."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model = (TCoRe if case.form == "lean" else PlainTCoRe)(case.settings).to(case.device)
    if case.compiled:
        model.compile_blocks()
    optimiser = build_optimiser(model, OptimiserSettings())
    batch = random_batch(case.batch_size, ViewSettings(), case.device)
    seconds = []
    for _ in range(1 + case.steps):
        if case.device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        take_step(model, optimiser, batch, case.precision)
        if case.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": float(np.median(seconds[1:])), "peak_gb": peak_memory_gb(torch.device(case.device))}


def measure_apart(case: Case) -> dict[str, float]:
    """`measure` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (case,))


def step_flops(settings: TCoReSettings, batch_size: int, masked_share: float = 0.15) -> float:
    """Floating-point operations of a lean step's matrix products, without recomputation; backward counts double.

    `masked_share` is the mean share of masked patches: half of the crops times ratios of 0.1 to 0.5.
    """
    vit, head, views = settings.backbone, settings.head, ViewSettings()

    def blocks(size: int) -> float:
        tokens = 1 + vit.registers + (size // vit.patch_size) ** 2
        return 2 * vit.depth * tokens * ((4 + 2 * vit.mlp_ratio) * vit.width**2 + 2 * tokens * vit.width)

    def embedding(size: int) -> float:
        return 2 * size**2 * 3 * vit.width

    patches = (views.global_size // vit.patch_size) ** 2
    kept = 1 - vit.drop_path
    crops, local, auxiliary = 2 * batch_size, views.local_crops * batch_size, 2 * batch_size  # half of 2 x 2 views
    rows = crops * patches * masked_share
    large, small = blocks(views.global_size), blocks(views.local_size)
    embedded, embedded_small = embedding(views.global_size), embedding(views.local_size)
    mlp = 2 * (vit.width * head.hidden + head.hidden**2 + head.hidden * head.bottleneck)
    last = 2 * head.bottleneck * head.prototypes
    matching = 2 * settings.pmm.modules * patches * (9 * vit.width**2 + 4 * patches * vit.width)
    return float(
        3 * kept * (crops * large + local * small)
        + 2 * (crops * embedded + local * embedded_small)  # images need no gradient
        + crops * (large + embedded)
        + auxiliary * (kept * large + embedded)
        + 3 * auxiliary * matching
        + (mlp + last) * (crops + rows)
        + 3 * (mlp + last) * (crops + local + 2 * rows)
    )


def projected_hours(architecture: str, batch_size: int, seconds: float) -> float:
    """Hours of the paper's run on Kinetics-400 at `seconds` a step."""
    return PAPER_EPOCHS[architecture] * (KINETICS_CLIPS // batch_size) * seconds / 3600


def gpu_figures() -> dict[str, Any]:
    """Lean steps at the paper's batch on this machine's GPU, in bf16 with compiled blocks."""
    name = torch.cuda.get_device_name()
    peak = next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
    figures: dict[str, Any] = {"gpu": name}
    for architecture, batch_size in (("small", 64), ("base", 128)):
        settings = TCoReSettings(backbone=VitSettings(architecture=architecture))
        measured: dict[str, Any] = dict(measure_apart(Case("lean", settings, batch_size, 10, "cuda", "bf16", True)))
        if peak:
            measured["mfu"] = step_flops(settings, batch_size) / measured["seconds"] / peak
        measured["hours_of_the_papers_run"] = projected_hours(architecture, batch_size, measured["seconds"])
        figures[f"{architecture}-{batch_size}"] = measured
    return figures


def main(command: TrainBenchmark) -> None:
    """Measure, print and write."""
    settings = TCoReSettings.model_validate(
        {"backbone": {"architecture": command.architecture}, "head": {"prototypes": command.prototypes}}
    )
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    turns: dict[str, list[dict[str, float]]] = {"plain": [], "lean": []}
    forms: tuple[Literal["plain", "lean"], ...] = ("plain", "lean")
    for form in tqdm(forms * command.rounds, unit="turn", desc="training steps"):
        turns[form].append(measure_apart(Case(form, settings, command.batch_size, command.steps, "cpu", "float32")))
    seconds, memory = (
        {form: float(np.median([turn[key] for turn in turns[form]])) for form in forms}
        for key in ("seconds", "peak_gb")
    )
    figures: dict[str, Any] = {
        "architecture": command.architecture,
        "batch_size": command.batch_size,
        "prototypes": command.prototypes,
        "seconds": seconds,
        "peak_gb": memory,
        "time_ratio": seconds["lean"] / seconds["plain"],
        "memory_ratio": memory["lean"] / memory["plain"],
        "turns": turns,
        "gpu": gpu_figures() if torch.cuda.is_available() else None,
    }
    write_result(command.out, figures)
    rows = [
        ("seconds a step", f"{seconds['lean']:.2f} lean, {seconds['plain']:.2f} plain: {figures['time_ratio']:.2f}"),
        ("peak memory, GB", f"{memory['lean']:.2f} lean, {memory['plain']:.2f} plain: {figures['memory_ratio']:.2f}"),
        ("GPU", json.dumps(figures["gpu"]) if figures["gpu"] else "none here: not measured"),
        ("written to", str(command.out)),
    ]
    print_table(rows, f"Training step, {command.architecture}, batch {command.batch_size}, float32 on the CPU")


if __name__ == "__main__":
    run_command(TrainBenchmark, main)
