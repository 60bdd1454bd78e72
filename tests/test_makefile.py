import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAMP = ".venv/.installed-cpu"


def make(*arguments: str, stamp: Path | str = STAMP) -> subprocess.CompletedProcess[str]:
    """Run make as if the virtual environment were there, free of a make that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    return subprocess.run(
        ["make", "-o", str(stamp), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_help_lists_every_public_target() -> None:
    listed = {line.split()[0] for line in make("help").stdout.splitlines()}
    assert {"help", "setup", "demo", "test", "lint", "bench", "shards", "verify", "preview", "knn"} <= listed


def test_wrong_python_is_one_sentence(tmp_path: Path) -> None:
    done = make("setup", "PYTHON=/bin/false", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "/bin/false is no Python 3.10 to 3.13 with the venv module" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    done = make("setup", "NEEDED_KB=900000000000000", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "of disk space here" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shards", "needs DATA="),
        ("verify", "needs SHARDS="),
        ("preview", "needs SHARDS="),
        ("knn", "needs SHARDS="),
    ],
)
def test_missing_arguments_are_named(target: str, message: str) -> None:
    done = make(target)
    assert done.returncode != 0
    assert message in done.stderr


ODD = 'do$lar "q" x'


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["shards", f"DATA={ODD}", "OUT=o ut", "ARGS=--seed 1"],
            ["pipeline.shards", "--data", ODD, "--out", "o ut", "--seed", "1"],
        ),
        (["verify", f"SHARDS={ODD}"], ["pipeline.verify", ODD]),
        (
            ["preview", f"SHARDS={ODD}", f"OUT={ODD}", "ARGS=--samples 3"],
            ["pipeline.preview", "--shards", ODD, "--out", ODD, "--samples", "3"],
        ),
        (
            ["knn", f"SHARDS={ODD}", f"WEIGHTS={ODD}", f"OUT={ODD}", "ARGS=-k 5"],
            ["indexing.knn", "--shards", ODD, "--out", ODD, "--weights", ODD, "-k", "5"],
        ),
        (
            ["knn", f"SHARDS={ODD}", f"FEATURES={ODD}", f"OUT={ODD}"],
            ["indexing.knn", "--shards", ODD, "--out", ODD, "--features", ODD],
        ),
    ],
)
def test_arguments_reach_the_programs_as_they_are(tmp_path: Path, arguments: list[str], command: list[str]) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    python.chmod(0o755)
    stamp = tmp_path / ".installed-cpu"
    stamp.touch()
    done = make(f"VENV={tmp_path}", *arguments, stamp=stamp)
    assert done.stdout == "".join(f"<{word}>" for word in ["-m", *command]), done.stderr
