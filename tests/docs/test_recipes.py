"""The recipe for videos of one's own runs as it is printed, on small data with a small model."""

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.command import evaluation_command
from evaluation.davis import DAVIS
from evaluation.program import run_weights
from indexing.features import FeaturesCommand
from indexing.features import main as write_features
from indexing.store import FEATURES
from pipeline.dataset import ShardDataset
from pipeline.preview.__main__ import PreviewCommand
from pipeline.preview.__main__ import main as show
from pipeline.settings import CommandT, parse_command
from pipeline.shards.__main__ import main as write_shards
from pipeline.shards.command import ShardsCommand
from tests.docs.documents import DOCS, ROOT, commands, fenced
from tests.docs.test_commands import TARGETS, program_options
from tests.media import write_clip
from tests.training.forks import train
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone
from training.export import ExportCommand
from training.export import main as export
from training.pretrain import PretrainCommand

RECIPE = "## My own videos"
SMALL_RUN = {
    "data.views.global_size": 64,
    "data.views.local_size": 32,
    "data.views.local_crops": 2,
    "model.head.hidden": 16,
    "model.head.bottleneck": 8,
    "model.head.prototypes": 32,
    "model.pmm.heads": 2,
    "schedule.warmup_epochs": 0,
    "schedule.teacher_temperature_epochs": 0,
    "schedule.freeze_last_layer_epochs": 0,
    "train.total_batch_size": 2,
    "train.epochs": 2,
    "train.steps_per_epoch": 1,
    "train.precision": "no",
    "train.report": False,
}
SMALL = {
    "pipeline.shards": ("--workers", "0"),
    "indexing.features": ("--workers", "0"),
}
"""Further options."""
CHANGED = ((r"^480$", "96"), (r"step-\d+", "step-00000002"))
"""Other values: the height of the network's input, the last step."""
OUTPUTS = re.compile(r"^/(?=data/)|^(?=(runs|weights|features|results|preview|own)\b)")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the recipe's paths lead, with recordings of two days and a released model."""
    for seed, name in enumerate(("2026-05-01/garden.mp4", "2026-05-02/street.mp4")):
        write_clip(tmp_path / "data" / "recordings" / name, seconds=20.0, seed=seed, size=(64, 48), fps=4)
    sizes = VitSettings(width=32, depth=1, heads=2, image_size=64)
    save_backbone(tmp_path / "data" / "weights" / "dino-vits16.pth", random_backbone(sizes, 0), {})
    text = (DOCS / "recipes.md").read_text().split(RECIPE)[1].split("\n## ")[0]
    (tmp_path / "recipe.md").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(work: Path) -> Iterator[tuple[str, list[str]]]:
    """Program and options of each command of the recipe, with the paths in `work`."""
    for words in commands(work / "recipe.md"):
        if words[0] == "make":
            words = ["python", "-m", TARGETS[words[1]], *program_options(words[1], words[2:])]
        yield words[2], [OUTPUTS.sub(f"{work}/", word) for word in words[3:]]


def in_process(command: type[CommandT], main: Callable[[CommandT], int | None]) -> Callable[[list[str]], int | None]:
    """A program without a process of its own."""
    return lambda options: main(parse_command(command, options))


def score(options: list[str]) -> int:
    """`python -m evaluation davis`."""
    assert options[0] == DAVIS.name
    return run_weights(DAVIS, parse_command(evaluation_command(DAVIS), options[1:]))


PROGRAMS = {
    "pipeline.shards": in_process(ShardsCommand, write_shards),
    "pipeline.preview": in_process(PreviewCommand, show),
    "training.export": in_process(ExportCommand, export),
    "indexing.features": in_process(FeaturesCommand, write_features),
    "evaluation": score,
}


def write_sequence(work: Path) -> None:
    """Run the program of the recipe and paint the first mask."""
    (source,) = fenced(work / "recipe.md", "python")
    Path("sequence.py").write_text(source)
    clip = ShardDataset("data/shards/own").keys[1].as_py()
    sys.argv = ["sequence.py", "data/shards/own", clip, "own"]
    runpy.run_path("sequence.py")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 10:30] = 1
    Image.fromarray(mask).save(f"own/Annotations/480p/{clip}/00000.png")


def test_the_recipe_for_your_own_videos(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    ran = []
    for name, options in recipe(work):
        ran.append(name)
        if name == "training/pretrain.py":
            given = {key.removeprefix("--"): value for key, value in zip(options[::2], options[1::2], strict=True)}
            status, message = train(given | SMALL_RUN)
            assert status == 0, message
            continue
        if name == "evaluation":
            write_sequence(work)
        for pattern, value in CHANGED:
            options = [re.sub(pattern, value, option) for option in options]
        assert (PROGRAMS[name]([*options, *SMALL.get(name, ())]) or 0) == (name == "evaluation")
    assert set(ran) == {*PROGRAMS, "training/pretrain.py"}

    clips = ShardDataset("data/shards/own")
    assert clips.num_frames.tolist() == [20] * 4
    assert capsys.readouterr().out.count("past and future frames lie 1.5 to 2.5 s from the current one") == 2
    assert Path("preview/own/index.html").is_file()
    assert Path("features/own", FEATURES).is_file()
    clip = clips.keys[1].as_py()
    assert len(list(Path("results/own/predictions", clip).iterdir())) == clips.num_frames[1]
    assert Path("results/own/sheets", f"{clip}.png").is_file()


def test_the_steps_of_the_recipe_follow_from_the_preset(work: Path) -> None:
    monkey = dict(recipe(work))["training/pretrain.py"]
    train = parse_command(PretrainCommand, [*monkey, "--config", str(ROOT / "configs/adapt-vits16.yaml")]).train
    clips = 100 * 3600 // 10
    steps = train.epochs * (clips // train.total_batch_size)
    text = (work / "recipe.md").read_text()
    assert f"{clips:,} clips" in text
    assert f"{steps:,} in {train.epochs} epochs" in text
    assert f"step-{steps:08d}" in text
