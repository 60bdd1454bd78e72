"""A second run of a finished job."""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.dataset import MANIFEST, read_manifest
from pipeline.settings import UserError
from pipeline.shards.__main__ import main
from tests.media import write_image
from tests.pipeline.shards.jobs import contents, shards_command


def test_it_is_left_alone_unless_settings_differ(
    image_tree: Path, image_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(image_dataset)
    main(shards_command(image_tree, image_dataset, samples_per_shard=4))
    assert "already there" in capsys.readouterr().out
    assert contents(image_dataset) == before
    with pytest.raises(UserError, match=r"settings: samples_per_shard = 4 \(recorded\), 2 \(now\)\. Choose"):
        main(shards_command(image_tree, image_dataset, samples_per_shard=2))


def test_a_dataset_of_a_version_without_keys_has_stems(
    image_tree: Path, image_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(image_dataset, out)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest.pop("keys") == "auto"
    (out / MANIFEST).write_text(json.dumps(manifest))
    assert read_manifest(out).keys == "stem"
    main(shards_command(image_tree, out, samples_per_shard=4))
    assert "already there" in capsys.readouterr().out, "auto gives the same keys"
    difference = r"keys = 'stem' \(recorded\), 'path' \(now\); 12 inputs \(recorded\), 12 other inputs \(now\)"
    with pytest.raises(UserError, match=f"settings: {difference}"):
        main(shards_command(image_tree, out, samples_per_shard=4, keys="path"))


def test_other_inputs_are_counted(image_tree: Path, image_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(image_tree, tmp_path / "data")
    write_image(tmp_path / "data" / "n00000000" / "new.JPEG", seed=99)
    with pytest.raises(UserError, match=r"settings: 12 inputs \(recorded\), 13 other inputs \(now\)\. Choose"):
        main(shards_command(tmp_path / "data", image_dataset, samples_per_shard=4))


def test_folders_of_other_files_are_refused(image_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"):
        main(shards_command(image_tree, tmp_path))
    assert os.listdir(tmp_path) == ["thesis.tex"]  # noqa: PTH208


def test_rejects_are_tried_again_on_demand(
    image_tree: Path, image_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(image_tree, data)
    broken = data / "n00000001" / "n00000001_4.JPEG"
    image = broken.read_bytes()
    broken.write_bytes(b"")
    main(shards_command(data, out, samples_per_shard=4))
    assert read_manifest(out).rejects == 1
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    broken.write_bytes(image)
    main(shards_command(data, out, samples_per_shard=4))
    assert "rejects: 1 unreadable" in capsys.readouterr().out, "without the option nothing is tried again"
    main(shards_command(data, out, samples_per_shard=4, retry_rejects=True))
    assert contents(out) == contents(image_dataset)
    assert sum(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items()) == 1
    main(shards_command(data, out, samples_per_shard=4, retry_rejects=True))
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_lost_and_cut_shards_are_rewritten(damage: str, image_tree: Path, image_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(image_dataset, out)
    kept = (out / "shard-000002.tar").stat().st_mtime_ns
    if damage == "lost":
        (out / "shard-000000.tar").unlink()
        (out / "shard-000001.idx").unlink()
    else:
        (out / "shard-000001.tar").write_bytes(b"cut")
    main(shards_command(image_tree, out, samples_per_shard=4))
    assert contents(out) == contents(image_dataset)
    assert (out / "shard-000002.tar").stat().st_mtime_ns == kept
