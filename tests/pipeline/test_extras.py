"""The base installation reads datasets, and what needs more says which extra brings it."""

import ast
import functools
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline.dataset import ShardDataset
from pipeline.extras import EXTRA_OF_PROGRAM, EXTRAS_OF_MODULE, missing_extra, running_program
from tests.docs.documents import ROOT

MODULES = {"pillow": "PIL", "pyyaml": "yaml", "ffmpeg-python": "ffmpeg", "faiss-cpu": "faiss", "faiss-gpu": "faiss"} | {
    "nvidia-dali-cuda130": "nvidia"
}
"""Modules with another name than their package."""
BASE = {"fsspec", "numpy", "PIL", "pyarrow", "pydantic", "pydantic_settings", "tqdm", "yaml"}


@functools.cache
def requirements() -> list[Requirement]:
    return [Requirement(line) for line in requires("tcore-pipeline") or ()]


@functools.cache
def modules_of(extra: str) -> set[str]:
    """Modules that the base ("") or an extra declares in pyproject.toml, with those of the extras that it includes."""
    result = set()
    for line in requirements():
        if line.marker.evaluate({"extra": extra}) if line.marker else not extra:
            if line.name == "tcore-pipeline":
                result |= {module for other in line.extras for module in modules_of(other)}
            else:
                result.add(MODULES.get(line.name, line.name.replace("-", "_")))
    return result


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports anywhere, also inside functions; type checking aside."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            result |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            result.add(node.module.partition(".")[0])
    return result


def test_the_base_is_what_reading_takes() -> None:
    assert modules_of("") == BASE


def test_the_table_is_that_of_pyproject() -> None:
    extras = {extra for extras in EXTRAS_OF_MODULE.values() for extra in extras}
    declared = {extra: modules_of(extra) for extra in extras}
    for module, known in EXTRAS_OF_MODULE.items():
        assert set(known) == {extra for extra, modules in declared.items() if module in modules}, module
    assert modules_of("all") == set().union(*declared.values())
    assert modules_of("all-gpu") == modules_of("all")
    assert set(EXTRA_OF_PROGRAM.values()) <= extras


def test_every_module_that_the_project_imports_is_in_the_base_or_in_an_extra() -> None:
    own = {"pipeline", "indexing", "training", "evaluation"}
    optional = {"transformers", "timm", "markupsafe"}  # named in documents; markupsafe comes with jinja2
    known = BASE | set(EXTRAS_OF_MODULE) | own | optional | set(sys.stdlib_module_names)
    for package in own:
        for path in (ROOT / package).rglob("*.py"):
            found = imported(path)
            assert found <= known, path
            program = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for name, extra in EXTRA_OF_PROGRAM.items():
                if f"{program}.".startswith(f"{name}."):
                    assert found & set(EXTRAS_OF_MODULE) <= modules_of(extra) | {"torch"}, path


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["python", "-m", "pipeline.shards", "--data", "x"], "pipeline.shards"),
        (["python", "-u", "training/pretrain.py", "--config", "c"], "training.pretrain"),
        (["python", "/a/b/training/pretrain.py"], "training.pretrain"),
        (["python", "-c", "import pipeline"], ""),
    ],
)
def test_the_program_is_known_from_its_command_line(words: list[str], program: str) -> None:
    assert running_program(words) == program


def test_the_extra_is_that_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", {})
    torch = ImportError("no torch", name="torch.nn")
    extras = {"evaluation": "eval", "indexing.knn": "knn", "training.export": "train", "": "reader"}
    for program, extra in extras.items():
        message = missing_extra(torch, program)
        assert message is not None
        assert f"needs the Python package torch, which is not installed: install the extra {extra} (pip" in message
    assert missing_extra(ImportError("no module", name="unknown")) is None
    assert missing_extra(ImportError("cannot import name")) is None


BLOCKED = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

NAMES = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Blocked())
import pipeline
from pipeline import ClipDataset, Sandwich
assert not {"numpy", "pyarrow"} - set(sys.modules)
clips = ClipDataset(sys.argv[1], Sandwich())
print(clips[1, 2].frames[2].shape, len(clips.clip(0)), "6 samples" in clips.describe())
for name in ("Loader", "streaming"):
    try:
        getattr(pipeline, name)
    except ImportError as error:
        print(error)
import pipeline.startup as startup
from pipeline.storage import open_storage
try:
    open_storage("s3://bucket/x")
except pipeline.settings.UserError as error:
    print(error)
sys.argv[1:] = [sys.argv[1], "--workers", "1"]
sys.orig_argv[1:] = ["-m", "pipeline.verify"]
try:
    runpy.run_module("pipeline.verify", run_name="__main__")
except SystemExit as end:
    print("verify", end.code)
sys.argv[1:] = []
sys.orig_argv[1:] = ["-m", "pipeline.shards"]
sys.excepthook = startup._end_if_missing
runpy.run_module("pipeline.shards", run_name="__main__")
"""


def test_frames_are_read_and_checked_with_the_base_alone(clip_dataset: Path) -> None:
    words = [sys.executable, "-c", BLOCKED, str(clip_dataset), ",".join(EXTRAS_OF_MODULE)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[0] == f"(144, 192, 3) {ShardDataset(clip_dataset).num_frames[0]} True", done.stderr
    assert lines[1].startswith("pipeline.Loader needs the Python package torch")
    assert lines[2].startswith("pipeline.streaming needs the Python package torch")
    assert "s3://bucket/x: this needs the Python package s3fs" in lines[3]
    assert "install the extra s3" in lines[3]
    assert lines[-1] == "verify 0"
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: pipeline.shards needs the Python package ")
    assert "install the extra shards (pip install '.[shards]'" in last
    assert "Traceback" not in done.stderr
