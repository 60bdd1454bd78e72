"""`make check-extras`: install the project without extras into an empty environment, and read frames there.

Needs a package index, so it is no test.
"""

import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from benchmarks.result import print_table
from pipeline.extras import EXTRA_OF_PROGRAM, EXTRAS_OF_MODULE
from pipeline.settings import Command, UserError, run_command
from pipeline.shards.__main__ import main as make_shards
from pipeline.shards.command import ShardsCommand

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "indexing", "training", "evaluation")
READ = """
import importlib.metadata, importlib.util, sys
from pipeline import ClipDataset, Sandwich
clips = ClipDataset(sys.argv[1], Sandwich())
assert [frame.shape for frame in clips[0, 3].frames] == 3 * [(48, 64, 3)], "frames"
assert [len(clips.clip(row).frames([0, 9])) for row in range(4)] == 4 * [2], "clips"
found = [name for name in sys.argv[2].split(",") if importlib.util.find_spec(name)]
assert not found, f"the base installs {found}"
print(*sorted(f"{d.name} {d.version}" for d in importlib.metadata.distributions()), sep=", ")
"""


class BaseInstall(Command):
    """Install the project without extras into an empty environment, and check what works there."""

    program: ClassVar[str] = "python -m benchmarks.base_install"


def _run(words: Sequence[object], status: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder.

    Raises:
        UserError: it ends with another status.
    """
    done = subprocess.run(list(map(str, words)), cwd=folder, capture_output=True, text=True)
    if done.returncode != status:
        raise UserError(f"{' '.join(map(str, words[1:4]))} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done


def _make_clips(folder: Path) -> Path:
    """Shards of four clips of ten frames, by the shard job."""
    for clip in range(4):
        frames = folder / "frames" / "class" / f"clip{clip}"
        frames.mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((48, 64, 3), 20 * number, np.uint8)).save(frames / f"{number:05d}.jpg")
    values = {"data": folder / "frames", "out": folder / "shards", "media": "frames", "workers": 0}
    make_shards(ShardsCommand.model_validate(values))
    return folder / "shards"


def main(command: BaseInstall) -> None:
    """Install, read frames, and start a program of each extra."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = folder / "source"
        source.mkdir()
        for path in (ROOT / name for name in SOURCES):  # a copy, as a build writes into its folder
            (shutil.copytree if path.is_dir() else shutil.copy)(path, source / path.name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        _run([*pip, "-c", ROOT / "constraints.txt", source], 0, folder)
        made = _make_clips(folder)
        packages = _run([python, "-c", READ, made, ",".join(EXTRAS_OF_MODULE)], 0, folder).stdout.strip()
        _run([python, "-m", "pipeline.verify", made], 0, folder)
        rows = [("reads frames", "yes"), ("packages", packages)]
        for program, extra in EXTRA_OF_PROGRAM.items():
            module = {"training": "training.export", "indexing": "indexing.knn"}.get(program, program)
            arguments = {
                "pipeline.preview": ["--shards", made],
                "pipeline.publish": [made, "--repo", "x", "--license", "mit"],
            }.get(program, [])
            told = _run([python, "-m", module, *arguments], 2, folder).stderr.strip().splitlines()[-1]
            if f"install the extra {extra} (" not in told:
                raise UserError(f"python -m {module} does not name the extra {extra}: {told}")
            rows.append((f"python -m {module}", told))
    print_table(rows, f"The base installation with Python {sys.version_info.major}.{sys.version_info.minor}")


if __name__ == "__main__":
    run_command(BaseInstall, main)
