"""The commands that the README shows are accepted by the programs."""

import shlex
from pathlib import Path

import pytest

from evaluation.davis import DavisCommand
from pipeline.settings import parse_command
from pipeline.shards.command import ShardsCommand
from training.command import PretrainCommand
from training.run_config import check_shapes

ROOT = Path(__file__).parents[1]


def commands(containing: str) -> list[list[str]]:
    """Arguments behind the word `containing` in each indented command of the README that has options."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    shown = [line for line in text.splitlines() if line.startswith("    ") and " --" in line]
    lines = [line for line in shown if f" {containing} " in line]
    return [words[words.index(containing) + 1 :] for words in map(shlex.split, lines)]


@pytest.mark.parametrize("number", range(3))
def test_pretraining(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = commands("training/pretrain.py")
    assert len(shown) == 3
    check_shapes(parse_command(PretrainCommand, shown[number]))


def test_shards() -> None:
    shown = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("    make shards ")]
    assert len(shown) == 5
    for line in shown:
        given = dict(word.split("=", 1) for word in shlex.split(line, comments=True)[2:])
        options = shlex.split(given.get("ARGS", ""))
        parse_command(ShardsCommand, ["--data", given["DATA"], "--out", given["OUT"], *options])


def test_evaluation() -> None:
    (shown,) = commands("davis")
    parse_command(DavisCommand, shown)


def test_make_targets_exist() -> None:
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ": $(STAMP)" in line}
    shown = {line.split()[1] for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("    make ")}
    assert shown <= targets
