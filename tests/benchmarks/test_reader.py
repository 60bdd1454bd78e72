import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.made_shards import make_shards
from benchmarks.pillow_loader import execute
from benchmarks.reader import ReaderBenchmark, count_bytes, main
from pipeline.dataset import ShardDataset
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.views import ViewSettings
from tests.media import decode

VIEWS = ViewSettings(global_size=64, local_size=32, local_crops=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 8, frames=8, size=(170, 128), per_shard=4)


def test_the_result_has_figures_settings_and_machine(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader.json"
    main(ReaderBenchmark(shards=made, out=out, batch_size=4, steps=2, threads=1, views=VIEWS))
    result = json.loads(out.read_text())
    assert result["samples_per_second"] > 0
    parts = [result[f"{part}_microseconds"] for part in ("plan", "read", "feed")]
    assert result["host_microseconds_per_sample"] == pytest.approx(sum(parts))
    assert (result["batch_size"], result["threads"], result["global_size"]) == (4, 1, 64)
    assert result["machine"]["cores"] > 0
    assert "torch" in result["versions"]


def test_only_needed_bytes_are_requested(made: Path) -> None:
    counted = count_bytes(ReaderBenchmark(shards=made, batch_size=4, steps=2, views=VIEWS))
    assert counted["bytes_needed_per_sample"] > 1000
    assert 1.0 <= counted["bytes_asked_over_needed"] < 1.1
    assert counted["bytes_from_storage_over_needed"] <= counted["bytes_of_pages_over_needed"]
    assert counted["bytes_of_pages_over_needed"] > 1.0


def test_the_pillow_loader_executes_the_same_plan(made: Path) -> None:
    # without blur and hue, which Pillow computes in other ways
    views = VIEWS.model_copy(update={"hue": 0.0, "blur": (0.0, 0.0, 0.0)})
    settings = ReaderSettings(shards=made, views=views)
    with Loader(settings, 8, range(1)) as loader:
        (batch,) = list(loader)
        peer = execute(batch.plan, loader.mixture.planned_frames(batch.plan), settings)
    for ours, theirs in zip((batch.global_crops, batch.local_crops, *batch.auxiliary), peer, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().mean()) < 2 / 255 / 0.225, "two gray levels"
        assert torch.equal(ours.abs().amax(dim=(1, 2, 3)) == 0, theirs.abs().amax(dim=(1, 2, 3)) == 0)


def test_made_clips_are_a_dataset_that_drifts(made: Path) -> None:
    dataset = ShardDataset(made)
    assert (len(dataset), int(dataset.num_frames[0]), len(dataset.manifest.shards)) == (8, 8, 2)
    first, second = (decode(dataset.frame(0, frame)).astype(int) for frame in (0, 1))
    assert Image.fromarray(first.astype(np.uint8)).size == (170, 128)
    drifted = np.abs(first[:, 2:] - second[:, :-2]).mean()
    assert drifted < 0.5 * np.abs(first - second).mean()
