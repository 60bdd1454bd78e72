"""Which commands continue an unfinished job."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from pipeline.dataset import JOB
from pipeline.settings import UserError
from pipeline.shards.__main__ import main
from pipeline.shards.job import ShardJob
from pipeline.shards.parts import read_part
from pipeline.shards.shard import write_shard
from tests.pipeline.shards.jobs import shards_command


def begin(data: Path, out: Path) -> None:
    ShardJob(shards_command(data, out)).begin()


def test_other_settings_are_named(image_tree: Path, tmp_path: Path) -> None:
    begin(image_tree, tmp_path)
    recorded = json.loads((tmp_path / JOB).read_text())
    recorded["identity"]["seed"] = 7
    recorded["identity"]["frames"]["short_side"] = 128
    (tmp_path / JOB).write_text(json.dumps(recorded))
    difference = r"frames\.short_side = 128 \(recorded\), 256 \(now\); seed = 7 \(recorded\), 0 \(now\)\. Give those"
    with pytest.raises(UserError, match=f"holds an unfinished job with other settings: {difference}"):
        main(shards_command(image_tree, tmp_path))


def test_a_job_continues_however_its_data_is_spelled_and_after_it_was_moved(
    image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(image_tree, data)
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    begin(data, out)
    for spelled in (f"{data}/", f"{data}/n00000000/..", "data", "./data/.", "link", f"file://{data}/"):
        assert ShardJob(shards_command(spelled, out)).begin().inputs == 12
    data.rename(tmp_path / "moved")
    job = ShardJob(shards_command("moved/", out))
    plan = job.begin()
    assert "continuing the job" in capsys.readouterr().out
    write_shard(0, job.task(plan))
    part = read_part(job.out, "shard-000000")
    assert part is not None
    assert (plan.shards, part.samples) == (1, 12)


def test_a_job_of_a_version_without_keys_has_stems(clip_tree: Path, image_tree: Path, tmp_path: Path) -> None:
    for name, data in (("clips", clip_tree), ("images", image_tree)):
        ShardJob(shards_command(data, tmp_path / name, keys="stem")).begin()
        recorded = json.loads((tmp_path / name / JOB).read_text())
        del recorded["identity"]["keys"]
        (tmp_path / name / JOB).write_text(json.dumps(recorded))
    assert ShardJob(shards_command(image_tree, tmp_path / "images")).begin().inputs == 12, "auto gives the same keys"
    assert ShardJob(shards_command(clip_tree, tmp_path / "clips", keys="stem")).begin().inputs == 8
    with pytest.raises(UserError, match=r"other inputs: keys = 'stem' \(recorded\), 'auto' \(now\)\. Give those again"):
        ShardJob(shards_command(clip_tree, tmp_path / "clips")).begin()


def test_other_data_is_refused_without_advice_to_remove_the_job(image_tree: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(image_tree, data)
    begin(image_tree, out)
    next(data.rglob("*.JPEG")).rename(data / "other.JPEG")
    with pytest.raises(UserError, match="an unfinished job with other inputs") as error:
        main(shards_command(data, out))
    assert f"data = '{image_tree}' (recorded), '{data}' (now). Give those again to continue it" in str(error.value)
    assert "emove" not in str(error.value)


def test_a_tar_of_the_same_files_in_another_order_is_other_data(image_tree: Path, tmp_path: Path) -> None:
    paths = sorted(image_tree.rglob("*.JPEG"))
    for name, members in (("a", paths), ("b", paths[::-1])):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for path in members:
                tar.add(path, str(path.relative_to(image_tree)))
    shutil.copy(tmp_path / "a.tar", tmp_path / "c.tar")
    out = tmp_path / "out"
    begin(tmp_path / "a.tar", out)
    assert ShardJob(shards_command(tmp_path / "c.tar", out)).begin().inputs == 12
    with pytest.raises(UserError, match="an unfinished job with other inputs"):
        main(shards_command(tmp_path / "b.tar", out))
