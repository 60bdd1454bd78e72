"""Every preset is accepted, says what its source says, and trains a step when its model is made small."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor

from pipeline.reader.batch import Batch
from pipeline.sampling.plan import SampleTable, plan_batch
from pipeline.settings import parse_command
from training.head import HeadSettings
from training.model import TCoRe
from training.optimizer import build_optimizer
from training.pretrain import PretrainCommand
from training.run_config import check_shapes
from training.schedules import StepValues
from training.step import train_step

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("ablations/*.yaml")])
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


def load(path: Path) -> PretrainCommand:
    options = ["--config", str(path), "--data.shards", "shards", "--out", "run"]
    if path.stem == "paper-vits16-in1k":
        options += ["--data.neighbours", "neighbours"]
    return parse_command(PretrainCommand, options)


def preset(name: str) -> PretrainCommand:
    return load(next(path for path in PRESETS if path.stem == name))


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
    accelerator = Accelerator(cpu=True)
    result = train_step(accelerator, model, build_optimizer(model, small.optimizer), batch, rates, small.optimizer.clip)
    assert result.finite
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
    "paper-vits16-in1k": ONE,
    "no-squeeze": BOTH - {"squeeze"},
}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_is_accepted_consistent_and_trains(path: Path) -> None:
    command = load(path)
    check_shapes(command)
    assert command.schedule.warmup_epochs <= command.train.epochs
    assert command.data.views.global_size == command.model.backbone.image_size
    assert terms_of_a_step(command) == TERMS.get(path.stem, BOTH)


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_file_is_accepted_by_accelerate(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
    assert config.mixed_precision == "no"  # the run's own setting, train.precision, decides


def test_ablations_change_what_their_names_say_and_nothing_else() -> None:
    full = preset("full").model_dump(exclude={"config"})
    changed: dict[str, set[str]] = {}
    for path in (CONFIGS / "ablations").glob("*.yaml"):
        values = load(path).model_dump(exclude={"config"})
        changed[path.stem] = {
            f"{section}.{key}"
            for section in ("data", "model", "optimizer", "schedule", "train")
            for key in values[section]
            if values[section][key] != full[section][key]
        }
    assert changed.pop("full") == set()
    for name, keys in changed.items():
        expected = {
            "no-auxiliary": {"data.sandwich", "model.auxiliary_branch"},
            "no-squeeze": {"model.loss"},
            "separate-heads": {"model.separate_heads"},
            "pmm-2": {"model.pmm"},
            "pmm-3": {"model.pmm"},
            "vitb16": {"model.backbone", "train.total_batch_size"},
            "vitl16": {"model.backbone", "train.total_batch_size"},
        }.get(name, {"data.masks"} if name.startswith("mask") else {"data.sandwich"})
        if name.startswith("unaligned"):
            expected |= {"data.all_auxiliary", "model.auxiliary_branch", "model.teacher_sees"}
        if name == "unaligned-time":
            expected |= {"data.views"}
        assert keys == expected, name


def test_the_full_ablation_is_the_papers_run_shortened() -> None:
    full, paper = (preset(name).model_dump(exclude={"config"}) for name in ("full", "paper-vits16-k400"))
    full["train"]["epochs"] = 400
    assert full == paper


def test_sizes_of_the_papers_models() -> None:
    # parameter counts of the backbones (paper, tables 1 and 2: 22 M and 87 M); ViT-L/16 has 304 M
    for name, millions in (("paper-vits16-k400", 22), ("paper-vitb16-k400", 87), ("vitl16", 304)):
        settings = preset(name).model.model_copy(update={"head": HeadSettings(hidden=8, bottleneck=4, prototypes=4)})
        with torch.device("meta"):
            backbone = TCoRe(settings).student.backbone
        assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) in (millions, millions - 1)


def test_presets_differ_where_the_sources_differ() -> None:
    paper, released, checkpoint = (preset(f"{kind}-vits16-k400") for kind in ("paper", "released", "checkpoint"))
    assert paper.data.views.blur == (1.0, 0.1, 0.5)
    assert released.data.views.blur == checkpoint.data.views.blur == (0.0, 0.9, 0.5)
    assert (paper.model.pmm.cross_attention_factor, released.model.pmm.cross_attention_factor) == (1, 4)
    assert released.optimizer.layer_decay == 0.9
    assert released.schedule.freeze_last_layer_epochs == 1
    assert checkpoint.optimizer.layer_decay == checkpoint.optimizer.patch_embed_lr_factor == 1
    assert checkpoint.schedule.freeze_last_layer_epochs == 0
