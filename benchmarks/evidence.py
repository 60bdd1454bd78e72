"""`make evidence`: whether the method learns here.

Trains a small ViT in the ways that the paper compares, with several seeds each, on clips made by code and optionally on
real ones; scores all of them on held-out clips; writes a result file and docs/evidence.md.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from benchmarks.evidence_page import table_of, write_page
from benchmarks.evidence_runs import FINISHED, PRESET, EvalSetup, Run, run_all, run_logged
from benchmarks.evidence_variants import VARIANTS, VARIANTS_ON_REAL_CLIPS, paragraph, variant
from benchmarks.programs import Programs
from benchmarks.result import write_result
from evaluation.frames import Size
from pipeline.differences import differences
from pipeline.files import as_json, write_bytes
from pipeline.settings import COUNT_LIMIT, THREAD_LIMIT, Command, UserError, parse_command, run_command
from training.backbone.device import default_device
from training.backbone.weights import random_backbone, save_backbone
from training.pretrain import PretrainCommand

GPU_STEPS = 10
"""On a GPU, runs are this many times as long."""
MADE_FROM = "made_from.json"


class EvidenceCommand(Command):
    """Train a small ViT with and without parts of the method, score it, and write the comparison.

    Run again, it continues: finished data, training and scores are kept.
    """

    program: ClassVar[str] = "python -m benchmarks.evidence"

    out: Path = Path("evidence")
    """Folder for data, runs and logs."""
    result: Path = Path("benchmarks/results/evidence.json")
    """Result file to write."""
    page: Path = Path("docs/evidence.md")
    """Document to write from it."""
    clips: int = Field(120, ge=1, le=COUNT_LIMIT)
    """Clips to make for training."""
    sequences: int = Field(8, ge=1, le=COUNT_LIMIT)
    """Held-out sequences for DAVIS; half as many for VIP and for JHMDB."""
    seeds: int = Field(3, ge=1, le=COUNT_LIMIT)
    """Runs of each variant."""
    steps: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Steps of a run; default: those of configs/tiny.yaml, ten times as many on a GPU."""
    size: Size = (160, 288)
    """Height and width of the network's input in the evaluation."""
    max_parallel: int | None = Field(None, ge=1, le=THREAD_LIMIT)
    """Runs at a time; default: one per core, or one on a GPU. The result does not depend on it."""
    real_clips: Path | None = None
    """Folder of class folders with real clips, for a second table; needs --real_davis."""
    real_davis: Path | None = None
    """DAVIS-2017 folder on which runs on real clips are scored."""


def make_data(command: EvidenceCommand, programs: Programs) -> list[EvalSetup]:
    """Make clips and shards, except those that exist already."""
    out, log = command.out, command.out / "data.txt"
    print(f"making {command.clips} clips and their shards (a few minutes; progress in {log})", flush=True)
    options = ("--images_per_class", "1", "--clips", str(command.clips), "--sequences", str(command.sequences))
    run_logged(programs, ("python", "-m", "benchmarks.demo_data", str(out / "data"), *options), log)
    held_out = {task: out / "data" / task for task in ("davis", "vip", "jhmdb")}
    sources = {"demo": (out / "data" / "kinetics" / "train", held_out)}
    if command.real_clips and command.real_davis:
        sources["real"] = command.real_clips, {"davis": command.real_davis}
    setups = []
    for name, (clips, held_out) in sources.items():
        shards = out / "shards" / name
        run_logged(programs, ("python", "-m", "pipeline.shards", "--data", str(clips), "--out", str(shards)), log)
        setups.append(EvalSetup(name, shards, held_out, command.size))
    return setups


def plan(command: EvidenceCommand, setups: list[EvalSetup], steps: int, architecture: Path) -> list[Run]:
    """All runs, seed by seed, so that an early end leaves complete comparisons."""
    runs = []
    for setup in setups:
        real = setup.name == "real"
        variants = [variant(name) for name in VARIANTS_ON_REAL_CLIPS] if real else VARIANTS
        for seed, chosen in itertools.product(range(command.seeds), variants):
            points = 4 if chosen.trained and seed == 0 and not real else 0
            folder = command.out / setup.name / f"{chosen.name}-{seed}"
            runs.append(Run(setup, chosen, seed, steps, points, folder, architecture))
    return runs


def check_folder(command: EvidenceCommand, preset: PretrainCommand, steps: int) -> None:
    """Make sure that the folder holds runs of these settings, and record them there.

    Raises:
        UserError: it holds others.
    """
    free = {"config", "out", "result", "page", "max_parallel", "seeds", "steps", "real_clips", "real_davis"}
    settings = {**command.model_dump(mode="json", exclude=free), "steps": steps}
    path, current = command.out / MADE_FROM, {"settings": settings, "preset": preset.model_dump(mode="json")}
    if path.is_file() and (difference := differences(json.loads(path.read_text()), current)):
        raise UserError(
            f"{command.out} holds runs with other settings: {difference}. Remove it or choose another --out"
        )
    write_bytes(path, as_json(current))


def collect(command: EvidenceCommand, runs: list[Run], steps: int) -> dict[str, Any]:
    """The result file's content."""
    kept = command.model_dump(mode="json", include={"clips", "sequences", "seeds", "size"})
    result: dict[str, Any] = {"settings": {**kept, "steps": steps}}
    for run in runs:
        runs_of = result.setdefault(run.setup.name, {"runs": {}})["runs"]
        runs_of.setdefault(run.variant.name, []).append(json.loads((run.folder / FINISHED).read_text()))
    return result


def main(command: EvidenceCommand) -> None:
    """Make data, train and score, write result and page."""
    if (command.real_clips is None) != (command.real_davis is None):
        raise UserError("--real_clips and --real_davis go together: give both or neither")
    preset = parse_command(PretrainCommand, ["--config", str(PRESET), "--data.shards", "", "--out", ""])
    gpu, epochs = default_device() == "cuda", preset.train.epochs
    assert preset.train.steps_per_epoch is not None
    steps = command.steps or epochs * preset.train.steps_per_epoch * (GPU_STEPS if gpu else 1)
    if steps % epochs:
        raise UserError(f"--steps {steps} must be a multiple of the {epochs} epochs of {PRESET}")
    check_folder(command, preset, steps)
    architecture = command.out / "architecture.safetensors"
    save_backbone(architecture, random_backbone(preset.model.backbone, 0), {})
    programs = Programs()
    with programs.stopped_on_failure():
        runs = plan(command, make_data(command, programs), steps, architecture)
    print(f"{len(runs)} runs, {sum(run.is_finished for run in runs)} of them finished", flush=True)
    run_all(runs, epochs, command.max_parallel or (1 if gpu else len(os.sched_getaffinity(0))), programs)
    write_result(command.result, collect(command, runs, steps))
    result = json.loads(command.result.read_text())
    write_page(command.page, result)
    print(f"\n{paragraph(table_of(result['demo']['runs']))}\n\nTables: {command.page}; all scores: {command.result}")


if __name__ == "__main__":
    run_command(EvidenceCommand, main)
