import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexing.command import KnnCommand
from indexing.extract import PARTS, ShardFeatures, part_name
from indexing.features import LOCK, FeaturesCommand, main
from indexing.store import FEATURES
from pipeline.dataset import ShardDataset
from pipeline.files import sha256_file
from pipeline.settings import UserError, parse_command
from pipeline.storage import open_storage
from training.backbone.families import BackboneOptions
from training.backbone.source import source_sha256
from training.backbone.vit import VitSettings, random_backbone
from training.backbone.weights import save_backbone


def test_parts_of_other_weights_are_refused(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    out = open_storage(str(tmp_path))
    out.write(f"{PARTS}/job.json", b'{"weights_hash": "other"}')
    with pytest.raises(UserError, match=r"holds finished parts of another job: .*weights_hash = 'other' \(recorded\)"):
        main(FeaturesCommand(shards=image_dataset, weights=weights, out=str(tmp_path)))


def test_a_second_run_at_once_is_kept_out(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    with open_storage(str(tmp_path)).exclusive_lock(LOCK), pytest.raises(UserError, match="another job is writing to"):
        main(FeaturesCommand(shards=image_dataset, weights=weights, out=str(tmp_path)))


def test_a_missing_shard_is_one_sentence(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    for path in image_dataset.iterdir():
        if path.name != "shard-000001.tar":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match=r"shard-000001\.tar is missing"):
        main(FeaturesCommand(shards=tmp_path, weights=weights, out=str(tmp_path / "out")))


def test_the_search_passes_on_what_the_weights_do_not_say() -> None:
    from indexing.knn import feature_options

    options = "--shards s --out o --weights w.pth --backbone.family mae --backbone.part teacher"
    pixels = "--backbone.heads 3 --backbone.mean 0.5,0.5,0.5 --backbone.std 1,1,1"
    command = parse_command(KnnCommand, f"{options} {pixels}".split())
    parsed = parse_command(FeaturesCommand, feature_options(command))
    assert (
        parsed.backbone
        == command.backbone
        == BackboneOptions(family="mae", part="teacher", heads=3, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    )
    assert (
        source_sha256(Path(__file__), parsed.backbone) != source_sha256(Path(__file__)) == sha256_file(Path(__file__))
    )


@pytest.mark.slow
def test_a_killed_pass_continues_with_its_finished_shards(image_dataset: Path, tmp_path: Path) -> None:
    weights, out = tmp_path / "large.safetensors", tmp_path / "killed"
    save_backbone(weights, random_backbone(VitSettings(width=192, depth=4, heads=3), seed=0), {})
    options = {"shards": image_dataset, "weights": weights, "out": out, "workers": 0, "batch_size": 1}
    argv = [sys.executable, "-m", "indexing.features", *(f"--{name}={value}" for name, value in options.items())]
    program = subprocess.Popen(argv, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (finished := sorted((out / PARTS).glob("[0-9]*.npy"))):
        assert program.poll() is None, program.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(program.pid, signal.SIGKILL)
    program.communicate()
    assert not (out / FEATURES).exists()
    marked = np.eye(4, 192, dtype=np.float16)
    np.save(finished[0], marked)  # to see that this shard is not computed again
    main(FeaturesCommand.model_validate({**options, "out": out}))
    assert [path.name for path in out.iterdir()] == [FEATURES]
    table, dataset = pq.read_table(out / FEATURES), ShardDataset(image_dataset)
    assert table["key"].to_pylist() == dataset.keys.to_pylist()
    assert table.schema.metadata[b"dataset_hash"].decode() == dataset.manifest.dataset_hash
    assert table.schema.metadata[b"weights_hash"].decode() == sha256_file(weights)
    features, shard = np.stack(table["feature"].to_numpy()), int(finished[0].stem)
    assert part_name(shard) == f"{PARTS}/{finished[0].name}"
    worker = ShardFeatures(image_dataset, weights, open_storage(str(tmp_path)), batch_size=1, threads=1)
    expected = worker.features(np.arange(len(dataset)))
    expected[dataset.shard == shard] = marked
    np.testing.assert_array_equal(features, expected)
