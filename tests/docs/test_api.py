"""The programs of docs/api.md run as shown."""

import random
from pathlib import Path

import pytest
import torch

from pipeline.dataset import ShardDataset
from tests.docs.documents import DOCS, fenced

PAIRS, CLIPS, FRAMES, STREAM = fenced(DOCS / "api.md", "python")


@pytest.fixture(autouse=True)
def dataset(clip_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "DATASET").symlink_to(clip_dataset)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    random.seed(0)


def run(program: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a program prints."""
    exec(compile(program, "docs/api.md", "exec"), {"__name__": "documented"})
    return capsys.readouterr().out.splitlines()


def test_they_are_short() -> None:
    assert all(len([line for line in program.splitlines() if line]) <= 10 for program in (PAIRS, CLIPS, FRAMES, STREAM))


def test_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(PAIRS, capsys)
    assert all(line.endswith(" (3, 2, 3, 224, 224)") for line in lines)
    shown = " ".join(lines)
    assert all(repr(str(key)) in shown for key in ShardDataset("DATASET").keys)


def test_clips(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.partition(") ")[2] for line in run(CLIPS, capsys)] == 2 * ["(3, 3, 8, 128, 128)"]


def test_frames(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(FRAMES, capsys)
    assert lines[0].startswith("DATASET: 6 samples of 2 classes")
    assert len([line for line in lines if line.endswith("(192, 144)")]) == 6


def test_stream(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(STREAM, capsys)
    assert [line.partition(") ")[0] + ")" for line in lines] == 4 * ["(3, 3, 144, 192)"]
