import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAMP = ".venv/.installed-cpu"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as if the virtual environment were there."""
    return subprocess.run(["make", "-o", STAMP, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_lists_every_public_target() -> None:
    listed = {line.split()[0] for line in make("help").stdout.splitlines()}
    assert {"help", "setup", "demo", "test", "lint", "bench", "shards", "knn"} <= listed


def test_wrong_python_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "setup", "PYTHON=/bin/false", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "/bin/false is no Python 3.10 to 3.13 with the venv module" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "setup", "NEEDED_KB=900000000000000", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "of disk space here" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("target", "message"), [("shards", "needs DATA="), ("knn", "needs SHARDS=")])
def test_missing_arguments_are_named(target: str, message: str) -> None:
    done = make(target)
    assert done.returncode != 0
    assert message in done.stderr
