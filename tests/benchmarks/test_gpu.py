"""The GPU benchmarks on a bare machine: no package of the project's is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
BLOCKER = """
import os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in os.environ["BLOCKED"].split()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_without(packages: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`python -m benchmarks.gpu` in a Python in which some modules cannot be imported."""
    (folder / "sitecustomize.py").write_text(BLOCKER)
    environment = {**os.environ, "PYTHONPATH": str(folder), "BLOCKED": packages}
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("packages", ["pydantic pydantic_settings nvidia.dali faiss", "torch numpy tqdm yaml PIL"])
def test_missing_packages_are_named_in_one_sentence(packages: str, tmp_path: Path) -> None:
    result = run_without(packages, tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    named = line.partition(" lacks ")[2].partition(":")[0].split(", ")
    own = {"nvidia.dali": "nvidia-dali-cuda130", "yaml": "pyyaml", "PIL": "pillow"}
    expected = {own.get(name, name.replace("_", "-")) for name in packages.split()} - {"faiss"}
    assert set(named) == expected
    assert "make wheelhouse" in line


def test_a_package_of_some_stages_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "is_installed", lambda module: module not in ("nvidia.dali", "scipy"))
    monkeypatch.setattr(sys, "argv", ["gpu", "--help"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "lacks nvidia-dali-cuda130, scipy: stages that need it are skipped" in printed
    assert "--limit_s" in printed
