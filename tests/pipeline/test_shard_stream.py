"""Sequential reading with webdataset: equal parts, drawn frames, reproducible order."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.made_shards import make_shards
from pipeline.clips import ClipDataset
from pipeline.dataset import read_manifest
from pipeline.record import ShardWriter, header_bytes
from pipeline.sampling.frames import Every, Sandwich
from pipeline.settings import UserError
from pipeline.shard_stream import cut, streaming
from pipeline.storage import open_storage
from tests.media import decode


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 clips of 10 frames in 4 shards."""
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 11, frames=10, size=(32, 16), per_shard=3)


@settings(max_examples=50)
@given(samples=st.lists(st.integers(1, 9), min_size=1, max_size=8), parts=st.integers(1, 12), data=st.data())
def test_parts_are_equal_and_disjoint(samples: list[int], parts: int, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(samples)))))
    first_rows = np.cumsum([0, *samples])
    rows_in_order = [row for shard in order for row in range(first_rows[shard], first_rows[shard + 1])]
    each = sum(samples) // parts
    for part in range(parts):
        cuts = cut(np.array(samples), order, part, parts)
        rows = [row for piece in cuts for row in range(piece.first_row, piece.first_row + piece.samples)]
        assert rows == rows_in_order[part * each : (part + 1) * each]
        for piece in cuts:
            shards = np.searchsorted(first_rows, [piece.first_row, piece.first_row + piece.samples - 1], side="right")
            assert shards[0] == shards[1], "a piece is within one shard"


def test_samples_are_those_of_webdataset(clip_dataset: Path, image_dataset: Path, triplet_dataset: Path) -> None:
    for folder in (clip_dataset, image_dataset, triplet_dataset):
        tars = sorted(str(path) for path in folder.glob("*.tar"))
        stream = streaming(folder, shuffle_shards=False)
        assert isinstance(stream, webdataset.WebDataset)
        expected = list(webdataset.WebDataset(tars, shardshuffle=False))
        for number, (ours, theirs) in enumerate(zip(stream, expected, strict=True)):
            assert (ours.pop("__row__"), ours.pop("__epoch__")) == (number, 0)
            del theirs["__local_path__"]
            assert ours == theirs


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_and_workers_get_equal_parts(ranks: int, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are set as webdataset reads them, from the environment."""
    stream = streaming(made, seed=3)
    left_out = set()
    for epoch in range(4):
        stream.set_epoch(epoch)
        parts = []
        for rank in range(ranks):
            for worker in range(2):
                variables = {"RANK": rank, "WORLD_SIZE": ranks, "WORKER": worker, "NUM_WORKERS": 2}
                for name, value in variables.items():
                    monkeypatch.setenv(name, str(value))
                parts.append([sample["__row__"] for sample in stream])
        assert {len(part) for part in parts} == {stream.samples_per_worker(ranks, 2)} == {11 // (2 * ranks)}
        rows = sorted(row for part in parts for row in part)
        assert len(set(rows)) == len(rows)
        left_out.add(tuple(set(range(11)) - set(rows)))
    assert len(left_out) > 1, "other samples in each epoch"


def test_drawn_frames_are_those_of_clip_dataset(made: Path, triplet_dataset: Path) -> None:
    for folder in (made, triplet_dataset):
        clips = ClipDataset(folder, Sandwich(), seed=5)
        stream = streaming(folder, seed=5).draw(Sandwich()).shuffle(4)
        for epoch in range(2):
            stream.set_epoch(epoch)
            for sample in stream:
                expected = clips[epoch, sample["__row__"]]
                assert sample["__key__"] == expected.key
                assert sample["__frames__"] == expected.numbers.tolist()
                assert np.array_equal([decode(sample[f"{n}.jpg"]) for n in range(3)], expected.frames)
    with pytest.raises(UserError, match="no times"):
        streaming(triplet_dataset).draw(Every(1.0))


def test_an_epoch_is_a_function_of_seed_and_epoch(made: Path) -> None:
    def rows(seed: int, epoch: int) -> list[int]:
        stream = streaming(made, seed).shuffle(5)
        stream.set_epoch(epoch)
        return [sample["__row__"] for sample in stream]

    orders = [rows(seed, epoch) for seed in range(2) for epoch in range(2)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert rows(1, 1) == orders[3]
    in_order = [sample["__row__"] for sample in streaming(made, shuffle_shards=False)]
    assert in_order == list(range(11))


def _row(sample: dict[str, Any]) -> int:
    return int(sample["__row__"])


def test_persistent_workers_see_the_epoch(made: Path) -> None:
    stream = streaming(made, seed=1)
    loader: Any = torch.utils.data.DataLoader(
        stream.map(_row), None, num_workers=2, multiprocessing_context="fork", persistent_workers=True
    )
    epochs = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        epochs.append(list(loader))
    assert epochs[0] == epochs[2] != epochs[1]
    assert {len(set(rows)) for rows in epochs} == {10}


def test_a_pickled_pipeline_reads_the_same(made: Path) -> None:
    stream = streaming(made, seed=1).draw(Sandwich()).shuffle(3)
    assert [s["__key__"] for s in pickle.loads(pickle.dumps(stream))] == [s["__key__"] for s in stream]


@pytest.mark.parametrize("length", [6, 100, 101, 511, 512])
def test_the_header_of_a_member_has_the_length_that_is_written(length: int) -> None:
    [member] = ShardWriter(io.BytesIO()).write("k" * (length - 4), [("jpg", b"data")])
    assert header_bytes("k" * (length - 4) + ".jpg") == member.offset


@pytest.mark.parametrize("fault", ["short", "other order", "missing"])
def test_a_damaged_shard_is_named(fault: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in made.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    stream = streaming(folder, shuffle_shards=False)
    first, second = (folder / shard.file for shard in read_manifest(folder).shards[:2])
    if fault == "short":
        os.truncate(first, first.stat().st_size // 2)
    elif fault == "missing":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match=r"shard .*shard-000000\.tar.*pipeline\.verify"):
        list(stream)


def test_only_its_part_of_a_shard_is_read(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 1, "WORLD_SIZE": 5, "WORKER": 0, "NUM_WORKERS": 1}.items():
        monkeypatch.setenv(name, str(value))
    stream = streaming(made, shuffle_shards=False)
    storage = open_storage(str(made))
    opened = []

    def spy(name: str) -> Any:
        opened.append(storage.open(name))
        return opened[-1]

    monkeypatch.setattr(stream._shards.storage, "open", spy)
    positions = [(sample["__row__"], opened[-1].tell()) for sample in stream]
    assert [row for row, _ in positions] == [2, 3]
    sizes = [shard.bytes for shard in read_manifest(made).shards]
    assert positions[1][1] < sizes[1] / 2, "the second shard is read up to its first sample"
