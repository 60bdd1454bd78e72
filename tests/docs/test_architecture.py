"""The paths that docs/architecture.md names are there, and its two examples do what it says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.dataset import REJECTS, ShardDataset, read_manifest
from pipeline.verify.__main__ import VerifyCommand
from pipeline.verify.__main__ import main as verify
from tests.conftest import write_dataset
from tests.docs.documents import DOCS, ROOT, commands, fenced
from tests.media import write_clip
from tests.training.test_pretrain import small
from training.metrics import read_metrics

DOCUMENT = DOCS / "architecture.md"
(LIST,) = fenced(DOCUMENT, "python")
(LOSS,) = fenced(DOCUMENT, "diff")
LARGE = {"ray": "Ray", "nvidia": "DALI", "faiss": "FAISS"}


def changed_copy(folder: Path, package: str, patch: str) -> Path:
    """A folder in which Python finds a copy of a package with a patch of the document applied."""
    shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-"], cwd=folder, input=patch, text=True, check=True)
    return folder


def run(folder: Path, module: str, *arguments: object) -> str:
    """What `python -m MODULE` prints when it is started in a folder."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:pipeline|indexing|training|evaluation|tests)/[\w/]+\.py)`", DOCUMENT.read_text()))
    assert len(named) > 40
    assert not {name for name in named if not (ROOT / name).is_file()}


def test_large_libraries_are_imported_where_the_document_says() -> None:
    text = " ".join(DOCUMENT.read_text().split())
    for module, name in LARGE.items():
        pattern = re.compile(rf"^\s*(import|from) {module}\b", re.MULTILINE)
        packages = [ROOT / package for package in ("pipeline", "indexing", "training", "evaluation")]
        files = [path for package in packages for path in package.rglob("*.py") if pattern.search(path.read_text())]
        (message,) = re.findall(rf"{name} in ((?:`[^`]+`(?:, | and )?)+)", text)
        assert set(re.findall(r"`([^`]+)`", message)) == {str(path.relative_to(ROOT)) for path in files}


def test_a_data_set(ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    templates = {"78687": "Holding [something] next to [something]", "42326": "Turning [something] upside down"}
    for seed, clip in enumerate(templates):
        write_clip(tmp_path / f"{clip}.mp4", seconds=4.5, seed=seed)
        (tmp_path / "20bn-something-something-v2").mkdir(exist_ok=True)
        (tmp_path / f"{clip}.mp4").rename(tmp_path / "20bn-something-something-v2" / f"{clip}.webm")
    rows = [{"id": name, "template": text} for name, text in (templates | {"404": "Lost [something]"}).items()]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "train.json").write_text(json.dumps(rows))

    exec(compile(LIST, str(DOCUMENT), "exec"), {"__name__": "documented"})
    (variables,) = [words[2:] for words in commands(DOCUMENT) if words[:2] == ["make", "shards"]]
    given = dict(word.split("=", 1) for word in variables)
    out = write_dataset(Path(given["DATA"]), Path(given["OUT"]), samples_per_shard=4)

    opened = ShardDataset(out)
    classes = dict(zip(opened.keys.to_pylist(), opened.label.tolist(), strict=True))
    names = read_manifest(out).classes
    assert {key: names[label] for key, label in classes.items()} == {
        "78687": "Holding something next to something",
        "42326": "Turning something upside down",
    }
    assert opened.num_frames.tolist() == [9, 9]
    assert read_manifest(out).rejects == 1, (out / REJECTS).read_bytes()
    assert verify(VerifyCommand(dataset=str(out), workers=1)) == 0


def test_a_loss(clip_dataset: Path, tmp_path: Path) -> None:
    folder = changed_copy(tmp_path, "training", LOSS)
    options = {"model.backbone.layer_scale": 1.0, "train.epochs": 1, "train.steps_per_epoch": 2}
    given = small(clip_dataset, tmp_path / "run", **options) | {"model.loss.variance": 0.5}
    run(folder, "training.pretrain", *(f"--{name}={value}" for name, value in given.items()))
    first, second = read_metrics(tmp_path / "run")
    for line in (first, second):
        terms = [value for name, value in line.items() if name.startswith("loss/") and name != "loss/total"]
        assert line["loss/total"] == pytest.approx(sum(terms), rel=1e-5)
        assert 0 < line["features/std"] < 1
        assert line["loss/variance"] / 0.5 == pytest.approx(1 - line["features/std"], abs=0.02)
