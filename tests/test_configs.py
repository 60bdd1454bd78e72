"""Every preset is accepted, follows its source, and trains a step with a small model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor

from pipeline.differences import flatten
from pipeline.presets import load_yaml
from pipeline.reader.batch import Batch
from pipeline.sampling.plan import SampleTable, plan_batch
from pipeline.settings import parse_command
from training.backbone.vit import VisionTransformer
from training.model import TCoRe
from training.optimizer import build_optimizer
from training.pretrain import PretrainCommand
from training.run_config import check_shapes
from training.schedules import Schedules, StepValues, build_schedules, frozen_steps
from training.step import StepSettings, forward_backward_step, update_student

CONFIGS = Path(__file__).parents[1] / "configs"
ABLATIONS = [f"ablations.yaml:{name}" for name in load_yaml(CONFIGS / "ablations.yaml")["variants"]]
PRESETS = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name != "ablations.yaml") + ABLATIONS
CLIPS = 6
SMALL: dict[str, dict[str, Any]] = {
    "model": {
        "backbone": {"architecture": None, "width": 32, "depth": 1, "heads": 2, "image_size": 64},
        "head": {"hidden": 16, "bottleneck": 8, "prototypes": 32},
        "pmm": {"heads": 2},
    },
    "data": {"views": {"global_size": 64, "local_size": 32, "local_crops": 2}},
    "train": {"total_batch_size": CLIPS},
}


def load(preset: str) -> PretrainCommand:
    options = ["--config", str(CONFIGS / preset), "--data.shards", "shards", "--out", "run"]
    if preset == "paper-vits16-in1k.yaml":
        options += ["--data.neighbours", "neighbours"]
    return parse_command(PretrainCommand, options)


def terms_of_a_step(command: PretrainCommand) -> set[str]:
    """Train one step on noise that is planned as the preset says, with a small model; names of the loss terms."""
    values = command.model_dump(exclude={"config"})
    for section, parts in SMALL.items():
        for part, changes in parts.items():
            values[section][part] = values[section][part] | changes if isinstance(changes, dict) else changes
    small = PretrainCommand.model_validate(values)
    check_shapes(small)
    size = np.full(9, 100)
    neighbours = np.ones((9, 5), np.int64) if small.data.neighbours else None
    plan = plan_batch(small.data, SampleTable(size // 5, size, size, neighbours), 0, CLIPS, slice(0, CLIPS))

    def crops(count: int, side: int) -> Tensor:
        return torch.randn(count * CLIPS, 3, side, side)

    auxiliary = tuple(crops(2, 64) for _ in range(plan.frames.shape[1] - 1))
    batch = Batch(crops(2, 64), crops(2, 32), auxiliary, torch.from_numpy(plan.masks))
    torch.manual_seed(0)
    model = TCoRe(small.model)
    rates = StepValues(1e-3, 1e-3, 1e-4, weight_decay=0.04, momentum=0.99, teacher_temperature=0.05)
    settings = StepSettings(small.optimizer.clip)
    result = forward_backward_step(Accelerator(cpu=True), model, batch, rates.teacher_temperature, settings)
    assert result.finite
    update_student(build_optimizer(model, small.optimizer), rates, skipped=torch.zeros(()))
    model.update_teacher(rates.momentum)
    model.apply_center_update()
    assert all(norm > 0 for norm in result.norms.values())
    return result.losses.keys() - {"cls_local", "cls_global", "koleo", "total"}


BOTH = {"reconstruction_1", "reconstruction_2", "squeeze"}
ONE = {"reconstruction_1"}
TERMS = {
    "no-auxiliary": {"patch"},
    "unaligned-space": {"patch"},
    "unaligned-time": {"patch"},
    "unaligned-space-and-time": {"patch"},
    "past-only": ONE,
    "future-only": ONE,
    "paper-vits16-in1k.yaml": ONE,
    "no-squeeze": BOTH - {"squeeze"},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_accepted_consistent_and_trains(preset: str) -> None:
    command = load(preset)
    check_shapes(command)
    assert command.schedule.warmup_epochs <= command.train.epochs
    assert command.data.views.global_size == command.model.backbone.image_size
    assert terms_of_a_step(command) == TERMS.get(preset.removeprefix("ablations.yaml:"), BOTH)


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_file_is_accepted_by_accelerate(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
    assert config.mixed_precision == "no"  # the run's own setting, train.precision, decides


def test_sizes_of_the_papers_models() -> None:
    # parameter counts of the backbones (paper, tables 1 and 2: 22 M and 87 M); ViT-L/16 has 304 M
    models = {"paper-vits16-k400.yaml": 22, "paper-vitb16-k400.yaml": 87, "ablations.yaml:vitl16": 304}
    for preset, millions in models.items():
        with torch.device("meta"):
            backbone = VisionTransformer(load(preset).model.backbone)
        assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) in (millions, millions - 1)


def test_a_released_backbone_is_adapted_at_a_low_rate() -> None:
    def schedules(preset: str) -> Schedules:
        command = load(preset)
        return build_schedules(command.schedule, command.train.epochs, 100, command.train.total_batch_size)

    command, adapt, paper = (
        load("adapt-vits16.yaml"),
        schedules("adapt-vits16.yaml"),
        schedules("paper-vits16-k400.yaml"),
    )
    assert command.model.backbone.model_fields_set == set()  # the sizes follow from the weights
    assert adapt.lr.peak == pytest.approx(paper.lr.peak / 10)
    assert adapt.pmm_lr.peak == pytest.approx(paper.pmm_lr.peak)
    thawed = adapt.at(frozen_steps(command.model.freeze_backbone_epochs, command.train.epochs, 100))
    assert 0 < thawed.lr < 0.3 * adapt.lr.peak


def test_defaults_are_the_papers() -> None:
    paper = load("paper-vits16-k400.yaml").model_dump(exclude={"config"})
    defaults = parse_command(PretrainCommand, ["--data.shards", "shards", "--out", "run"]).model_dump(
        exclude={"config"}
    )
    defaults["model"]["backbone"]["architecture"] = "small"
    defaults["train"]["precision"] = "bf16"
    defaults["train"]["compile"] = True
    assert paper == defaults


def test_presets_differ_where_the_sources_differ() -> None:
    paper, released, checkpoint = (
        flatten(load(f"{kind}-vits16-k400.yaml").model_dump(exclude={"config"}))
        for kind in ("paper", "released", "checkpoint")
    )
    assert {key: (paper[key], released[key]) for key in paper if paper[key] != released[key]} == {
        "data.views.blur": ((1.0, 0.1, 0.5), (0.0, 0.9, 0.5)),
        "model.pmm.cross_attention_factor": (1.0, 4.0),
    }
    assert {key: (released[key], checkpoint[key]) for key in paper if released[key] != checkpoint[key]} == {
        "optimizer.layer_decay": (0.9, 1.0),
        "optimizer.patch_embed_lr_factor": (0.2, 1.0),
        "schedule.freeze_last_layer_epochs": (1, 0),
    }
