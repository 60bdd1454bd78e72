"""Frames as arrays for any training code, and what its worker processes get."""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.made_shards import make_shards
from pipeline.clips import ClipDataset
from pipeline.dataset import MANIFEST, ShardDataset, read_manifest
from pipeline.neighbours import write_neighbours
from pipeline.reader.settings import ReaderSettings
from pipeline.reader.table import sample_table
from pipeline.sampling.frames import Every, Sandwich, Uniform
from pipeline.sampling.order import OrderSettings
from pipeline.sampling.plan import plan_batch
from pipeline.sampling.views import ViewSettings
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.media import decode

VIEWS = ViewSettings(global_size=32, local_size=16, local_crops=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 clips of 10 frames in 3 shards."""
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 9, frames=10, size=(64, 48), per_shard=4)


def test_a_clip_decodes_what_is_asked_for(clip_dataset: Path) -> None:
    clips, index = ClipDataset(clip_dataset), ShardDataset(clip_dataset)
    for row in range(len(clips)):
        clip = clips.clip(row)
        assert (clip.key, clip.source) == (str(index.keys[row]), str(index.sources[row]))
        assert clip.class_name == clip.source.partition("/")[0]
        assert (clip.label, len(clip), clip.size) == (index.label[row], index.num_frames[row], (192, 144))
        assert clip.times_s.tolist() == [frame / 2 for frame in range(len(clip))]
        expected = [decode(index.frame(row, frame)) for frame in range(len(clip))]
        assert np.array_equal(np.stack([clip[frame] for frame in range(len(clip))]), expected)
        assert np.array_equal(clip.frames([3, -1, 3]), [expected[3], expected[-1], expected[3]])
        assert np.array_equal(clip.at([0, 1.6]), [expected[0], expected[3]])
    for call in (lambda: clip[len(clip)], lambda: clip.at([clip.duration_s]), lambda: clips.clip(6), lambda: clips[-7]):
        with pytest.raises(IndexError, match="there is no"):
            call()
    assert len(list(clips)) == 6, "iteration ends"


def test_frames_are_those_that_the_reader_draws(made: Path, clip_dataset: Path) -> None:
    both = ReaderSettings.model_validate({"shards": made, "mix": [{"shards": clip_dataset}], "views": VIEWS, "seed": 7})
    clips = ClipDataset([made, clip_dataset], Sandwich(), seed=7)
    table = sample_table(both, clips.datasets)
    visits = clips.visits(weights=(1, 1))
    taken = [*visits, *visits]
    for step in range(3):
        plan = plan_batch(both, table, step, 8, slice(0, 8))
        indices = taken[8 * step : 8 * step + 8]
        assert [row for _, row in indices] == plan.rows.tolist()
        assert [clips[index].numbers.tolist() for index in indices] == plan.frames.tolist()


def test_plain_indices_draw_anew_and_repeat_with_the_seed(made: Path) -> None:
    clips = ClipDataset(made, Uniform(3, random=True))
    drawn = []
    for _ in range(2):
        random.seed(3)
        drawn.append([clips[4].numbers.tolist() for _ in range(6)])
    assert drawn[0] == drawn[1]
    assert len({tuple(numbers) for numbers in drawn[0]}) > 1


def test_a_transform_takes_the_frames(made: Path) -> None:
    sample = ClipDataset(made, Every(1.0), transform=lambda frames: [frame.shape for frame in frames])[2]
    assert sample.frames == [(48, 64, 3)] * 5
    assert (sample.numbers.tolist(), sample.times_s.tolist()) == ([0, 2, 4, 6, 8], [0, 1, 2, 3, 4])
    assert sample.rows.tolist() == [2] * 5
    assert ClipDataset(made, Uniform(2))[1, 3].numbers.tolist() == [2, 7], "nothing is drawn"


def test_neighbours_follow_the_frames_of_a_sample(image_dataset: Path, tmp_path: Path) -> None:
    manifest, keys = read_manifest(image_dataset), ShardDataset(image_dataset).keys
    rows = np.stack([(np.arange(12) + shift) % 12 for shift in (1, 5)], axis=1).astype(np.int32)
    metadata = {"dataset_hash": manifest.dataset_hash}
    write_neighbours(open_storage(str(tmp_path)), keys, rows, rows.astype(np.float32), metadata)
    settings = ReaderSettings(shards=str(image_dataset), neighbours=tmp_path, views=VIEWS)
    images = pickle.loads(pickle.dumps(ClipDataset(image_dataset, Uniform(1), neighbours=tmp_path)))
    assert np.array_equal([images.neighbours(row) for row in range(12)], rows)
    plan = plan_batch(settings, sample_table(settings, images.datasets), 0, 12, slice(0, 12))
    for row, sources in zip(plan.rows.tolist(), plan.source_rows.tolist(), strict=True):
        sample = images[0, row]
        assert sample.rows.tolist() == sources
        assert np.array_equal(sample.frames[1], images.clip(sources[1])[0])
    with pytest.raises(UserError, match="opened without neighbours"):
        ClipDataset(image_dataset).neighbours(0)


def test_triplets_are_returned_as_stored(made: Path, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "triplets", 2, frames=3, size=(32, 16))
    (folder / MANIFEST).write_text(json.dumps(json.loads((folder / MANIFEST).read_text()) | {"layout": "triplets"}))
    sample = ClipDataset(folder, Sandwich())[1]
    assert sample.numbers.tolist() == [1, 0, 2]
    assert np.isnan(sample.times_s).all()
    with pytest.raises(UserError, match="no times"):
        ClipDataset([made, folder], Every(1.0))


def test_a_damaged_frame_names_its_sample(made: Path, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "damaged", 2, frames=2, size=(32, 16))
    dataset = ShardDataset(folder)
    offset, size = dataset.span(1, 1)
    with (folder / "shard-000000.tar").open("r+b") as shard:
        shard.seek(offset)
        shard.write(bytes(size))
    with pytest.raises(UserError, match=r"a frame of sample clip000001 in .*damaged.*pipeline\.verify"):
        ClipDataset(folder)[1]


def test_a_loader_with_forked_workers_reads_the_same(made: Path) -> None:
    clips: Any = ClipDataset(made, Sandwich(), seed=2)
    visits = clips.visits(OrderSettings(kind="window", window=1))
    batches = list(torch.utils.data.DataLoader(clips, 4, sampler=visits, num_workers=2, multiprocessing_context="fork"))
    expected = [clips[index] for index in clips.visits(OrderSettings(kind="window", window=1))]
    assert [key for batch in batches for key in batch.key] == [sample.key for sample in expected]
    frames = torch.cat([torch.stack(batch.frames, 1) for batch in batches])
    assert np.array_equal(frames.numpy(), [np.stack(sample.frames) for sample in expected])


READ = """
import pickle, sys
clips = pickle.load(open(sys.argv[1], "rb"))
print(clips[3, 4].numbers.tolist(), int(clips[3, 4].frames[2].sum()), "pandas" in sys.modules or "torch" in sys.modules)
print(sum("memfd:table" in line for line in open("/proc/self/maps")), clips._data.datasets[0]._index.reference.path)
"""


def test_another_process_maps_the_index_and_reads_the_same(made: Path, tmp_path: Path) -> None:
    clips = ClipDataset(made, Sandwich(), seed=2)
    pickled = pickle.dumps(clips)
    assert len(pickled) < 2000
    (tmp_path / "clips").write_bytes(pickled)
    lines = subprocess.check_output([sys.executable, "-c", READ, str(tmp_path / "clips")], text=True).splitlines()
    sample = clips[3, 4]
    assert lines[0] == f"{sample.numbers.tolist()} {sample.frames[2].sum()} False"
    assert lines[1].startswith("1 ")


def test_a_pickle_outlives_the_process_that_made_it(made: Path) -> None:
    clips = ClipDataset(made, Sandwich(), seed=2)
    pickled, expected = pickle.dumps(clips), clips[3, 4]
    del clips
    opened = pickle.loads(pickled)
    assert opened[3, 4].numbers.tolist() == expected.numbers.tolist()
    assert np.array_equal(opened[3, 4].frames, expected.frames)


def test_a_pickle_of_a_replaced_dataset_is_refused(made: Path, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "data", 2, frames=2, size=(32, 16))
    dataset = ShardDataset(folder)
    pickled = pickle.dumps(dataset)
    del dataset
    make_shards(folder, 2, frames=2, size=(32, 16), seed=1)
    with pytest.raises(UserError, match="is another dataset than when it was opened before"):
        pickle.loads(pickled)


def test_arguments_that_do_not_fit_are_refused(made: Path, tmp_path: Path) -> None:
    clips = ClipDataset([made, made])
    for arguments, message in (
        ({"rank": 2, "ranks": 2}, "there is no rank 2 of 2"),
        ({"weights": (1,)}, "must be 2 positive numbers"),
        ({"weights": (1, 0)}, "must be 2 positive numbers"),
    ):
        with pytest.raises(UserError, match=message):
            clips.visits(**arguments)
    with pytest.raises(UserError, match=r"s3://bucket/clips is remote: give cache=ShardCache"):
        ClipDataset("s3://bucket/clips")
    with pytest.raises(UserError, match="cannot be used with several datasets"):
        ClipDataset([made, made], neighbours=tmp_path)


def test_the_description_counts_what_the_index_has(clip_dataset: Path, image_dataset: Path) -> None:
    text = ClipDataset([clip_dataset, image_dataset]).describe()
    frames = ShardDataset(clip_dataset).num_frames
    assert f"{clip_dataset}: 6 samples of 2 classes from clips, split train, layout frames" in text
    assert f"{frames.sum()} frames" in text
    assert "2 of 8 inputs rejected" in text
    assert f"{frames.min()} to {frames.max()} (median {np.median(frames):.4g}) frames in 4.5 to 6" in text
    assert "width 160, height 120 pixels" in text


def test_a_shared_table_is_gone_with_its_processes() -> None:
    from pipeline.shared import Reference, SharedTable

    shared = SharedTable(pa.table({"a": [1, 2, 3]}, metadata={"b": "c"}))
    reference = shared.reference
    attached = SharedTable.attach(reference)
    assert attached is not None
    assert attached.table.equals(shared.table)
    assert SharedTable.attach(Reference(reference.path, "another")) is None
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    del shared
    assert SharedTable.attach(reference) is None
    assert attached.table["a"].to_pylist() == [1, 2, 3], "the mapping stays"
    del attached
    assert len(os.listdir("/proc/self/fd")) == descriptors - 2  # noqa: PTH208
