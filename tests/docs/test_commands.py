"""The commands that the documents show are accepted by the programs."""

import re
import shlex

import pytest

from evaluation.__main__ import BENCHMARKS
from evaluation.command import evaluation_command, score_command
from evaluation.knn import KnnProbeCommand
from evaluation.linear import LinearProbeCommand
from evaluation.look.command import LookCommand
from indexing.command import KnnCommand
from indexing.features import FeaturesCommand
from pipeline.preview.__main__ import PreviewCommand
from pipeline.publish.__main__ import PublishCommand
from pipeline.settings import Command, parse_command
from pipeline.shards.command import ShardsCommand
from pipeline.shards.plan import default_samples_per_shard
from pipeline.verify.__main__ import VerifyCommand
from tests.docs.documents import DOCS, DOCUMENTS, ROOT, commands
from training.export import ExportCommand
from training.import_official import ImportCommand
from training.pretrain import PretrainCommand
from training.run_config import check_shapes

MODULES: dict[str, type[Command]] = {
    "pipeline.shards": ShardsCommand,
    "pipeline.publish": PublishCommand,
    "pipeline.verify": VerifyCommand,
    "pipeline.preview": PreviewCommand,
    "indexing.features": FeaturesCommand,
    "indexing.knn": KnnCommand,
    "evaluation look": LookCommand,
    "training.export": ExportCommand,
    "training.import_official": ImportCommand,
}
MODULES |= {f"evaluation {benchmark.name}": evaluation_command(benchmark) for benchmark in BENCHMARKS}
MODULES |= {"evaluation knn": KnnProbeCommand, "evaluation linear": LinearProbeCommand}
MODULES |= {f"evaluation score {benchmark.name}": score_command(benchmark) for benchmark in BENCHMARKS}
VARIABLES = {
    "shards": {"DATA": "--data", "OUT": "--out", "CONFIG": "--config"},
    "preview": {"SHARDS": "--shards", "OUT": "--out"},
    "knn": {"SHARDS": "--shards", "WEIGHTS": "--weights", "FEATURES": "--features", "OUT": "--out"},
}
"""The options that variables of make become."""
TARGETS = {"shards": "pipeline.shards", "preview": "pipeline.preview", "knn": "indexing.knn"}
SHOWN = [
    pytest.param(words, id=f"{path.stem}: {' '.join(words)[:60]}") for path in DOCUMENTS for words in commands(path)
]


def program_options(target: str, variables: list[str]) -> list[str]:
    """The options that a make target passes to its program."""
    options = []
    for variable in variables:
        name, value = variable.split("=", 1)
        if name == "ARGS":
            options += shlex.split(value)
        elif name != "RAY_ADDRESS":
            options += [VARIABLES[target][name], value]
    return options


def check_program(words: list[str]) -> None:
    """Parse the options behind `python -m MODULE`."""
    known = [name for name in MODULES if words[: len(name.split())] == name.split()]
    assert known, f"no program {words[0]}"
    parse_command(MODULES[known[0]], words[len(known[0].split()) :])


@pytest.mark.parametrize("words", SHOWN)
def test_command_is_accepted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if words[0] == "make":
        assert words[1] in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if words[1] in TARGETS:
            check_program([TARGETS[words[1]], *program_options(words[1], words[2:])])
    elif "training/pretrain.py" in words:
        check_shapes(parse_command(PretrainCommand, words[words.index("training/pretrain.py") + 1 :]))
    else:
        check_program(words[2:])


@pytest.mark.parametrize(("inputs", "media", "epochs"), [(239_789, "clips", 400), (1_281_167, "images", 100)])
def test_counts_of_the_recipes_follow_from_the_sizes_of_the_datasets(inputs: int, media: str, epochs: int) -> None:
    text = (DOCS / "recipes.md").read_text()
    a_shard = 256 if media == "clips" else 1024
    assert default_samples_per_shard("clips" if media == "clips" else "images", inputs) == a_shard
    steps = inputs // 256
    for number in (inputs, -(-inputs // a_shard), a_shard, steps, epochs * steps):
        assert f"{number:,}" in text
    assert f"step-{epochs * steps:08d}" in text
