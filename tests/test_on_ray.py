"""Jobs on the actors of one Ray session; they give what they give in one process."""

import functools
import json
from pathlib import Path

import pytest

from benchmarks.shards import ShardsBenchmark
from benchmarks.shards import main as measure_shards
from indexing.features import FeaturesCommand
from indexing.features import main as compute_features
from indexing.job import SearchSettings, run_search
from indexing.search import Rules
from indexing.store import FEATURES
from indexing.supplied import import_features
from pipeline.dataset import ShardDataset
from pipeline.ray.actors import run_on_actors
from pipeline.settings import UserError
from pipeline.shards.__main__ import main as write_shards
from pipeline.storage import open_storage
from tests.indexing.conftest import weights as weights
from tests.indexing.made import unit_vectors, write_npy, write_rows
from tests.indexing.oracle import all_neighbours
from tests.media import write_clip, write_image
from tests.pipeline.ray.workers import Halver
from tests.pipeline.shards.jobs import shards_command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]


def test_items_are_processed_by_actors_and_errors_are_one_sentence(tmp_path: Path) -> None:
    done = list(run_on_actors(functools.partial(Halver, tmp_path, None), [2, 4, 6], "out", cpus=4, gpus=True))
    assert {one.item: one.result for one in done} == {2: 1, 4: 2, 6: 3}
    assert all(one.started <= one.ended for one in done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "6"]
    with pytest.raises(UserError, match=r"^no such shard$"):
        list(run_on_actors(functools.partial(Halver, tmp_path, UserError("no such shard")), [2], "out", workers=1))


def test_shards_read_from_and_written_to_an_object_store(image_tree: Path, image_dataset: Path, bucket: str) -> None:
    inputs = open_storage(f"{bucket}/inputs")
    for path in image_tree.rglob("*.JPEG"):
        inputs.write(str(path.relative_to(image_tree)), path.read_bytes())
    write_shards(shards_command(f"{bucket}/inputs", f"{bucket}/dataset", samples_per_shard=4, workers=1))
    storage = open_storage(f"{bucket}/dataset")
    result = {name: storage.read(name) for name in storage.walk() if name != "job.json"}
    assert result == {path.name: path.read_bytes() for path in image_dataset.iterdir() if path.name != "job.json"}
    assert storage.files(".parts") == []


def test_features(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    for workers in (0, 1):
        out = tmp_path / str(workers)
        compute_features(FeaturesCommand(shards=image_dataset, weights=weights, out=str(out), workers=workers))
    assert (tmp_path / "1" / FEATURES).read_bytes() == (tmp_path / "0" / FEATURES).read_bytes()


def test_neighbours(tmp_path: Path) -> None:
    features, storage = unit_vectors(1000, 32), open_storage(str(tmp_path / "out"))
    dataset = ShardDataset(write_rows(tmp_path / "shards", 1000))
    import_features(write_npy(tmp_path / "features.npy", features), dataset, storage, {})
    found = run_search(storage, SearchSettings(block=500, where="ray", threads=1), Rules(5), {})
    assert (found.rows == all_neighbours(features, Rules(5)).rows).all()


def test_the_benchmark_compares_the_shard_job_with_its_floor_and_with_the_recipes(tmp_path: Path) -> None:
    write_clip(tmp_path / "clips" / "a.mp4", 5.0, seed=0)
    write_image(tmp_path / "images" / "a.jpg", seed=0)
    command = ShardsBenchmark(
        clips=tmp_path / "clips",
        images=tmp_path / "images",
        clip_inputs=2,
        image_inputs=20,
        rounds=1,
        out=tmp_path / "result.json",
    )
    measure_shards(command)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["ratios"]) == 8
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert set(result["stage_seconds"]["clips"]) > {"check", "decode", "fetch", "write"}
