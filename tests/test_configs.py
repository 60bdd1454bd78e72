from pathlib import Path

import pytest
import torch

from pipeline.settings import parse_command
from training.head import HeadSettings
from training.model import TCoRe
from training.pretrain import PretrainCommand, check_shapes

PRESETS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def load(path: Path) -> PretrainCommand:
    options = ["--config", str(path), "--data.shards", "shards", "--out", "run"]
    if path.stem in ("demo-images", "paper-vits16-in1k"):
        options += ["--data.neighbours", "neighbours"]
    return parse_command(PretrainCommand, options)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_is_accepted_and_consistent(path: Path) -> None:
    command = load(path)
    check_shapes(command)
    assert command.schedule.warmup_epochs <= command.train.epochs
    assert command.data.views.global_size == command.model.backbone.image_size


def preset(name: str) -> PretrainCommand:
    return load(next(path for path in PRESETS if path.stem == name))


def test_sizes_of_the_papers_models() -> None:
    # parameter counts of the backbones (paper, tables 1 and 2: 22 M and 87 M)
    for name, millions in (("paper-vits16-k400", 22), ("paper-vitb16-k400", 87)):
        settings = preset(name).model.model_copy(update={"head": HeadSettings(hidden=8, bottleneck=4, prototypes=4)})
        with torch.device("meta"):
            backbone = TCoRe(settings).student.backbone
        assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) in (millions, millions - 1)


def test_presets_differ_where_the_sources_differ() -> None:
    paper, released, checkpoint = (preset(f"{kind}-vits16-k400") for kind in ("paper", "released", "checkpoint"))
    assert paper.data.views.blur == (1.0, 0.1, 0.5)
    assert released.data.views.blur == checkpoint.data.views.blur == (0.0, 0.9, 0.5)
    assert (paper.model.pmm.cross_attention_factor, released.model.pmm.cross_attention_factor) == (1, 4)
    assert released.optimiser.layer_decay == 0.9
    assert released.schedule.freeze_last_layer_epochs == 1
    assert checkpoint.optimiser.layer_decay == checkpoint.optimiser.patch_embed_lr_factor == 1
    assert checkpoint.schedule.freeze_last_layer_epochs == 0
