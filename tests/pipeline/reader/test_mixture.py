"""Several datasets and layouts as one sequence of samples, and errors of damaged ones."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from benchmarks.made_shards import make_shards
from pipeline.dataset import INDEX, MANIFEST, MAX_OPEN_SHARDS, ShardDataset
from pipeline.reader.loader import Loader
from pipeline.reader.mixture import DatasetMixture
from pipeline.reader.settings import MixSettings, ReaderSettings
from pipeline.sampling.order import OrderSettings
from pipeline.sampling.plan import plan_batch
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.sampling.views import ViewSettings
from pipeline.settings import UserError, parse_command
from training.pretrain import PretrainCommand

VIEWS = ViewSettings(global_size=32, local_size=16, local_crops=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("first") / "clips", 9, frames=10, size=(64, 48), per_shard=4)


@pytest.fixture(scope="module")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five samples of three frames, marked as past, current and future."""
    folder = make_shards(
        tmp_path_factory.mktemp("second") / "triplets", 5, frames=3, size=(48, 64), per_shard=2, seed=1
    )
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"layout": "triplets"}))
    return folder


def mixture(clips: Path, triplets: Path, **settings: object) -> ReaderSettings:
    return ReaderSettings.model_validate(
        {"shards": clips, "weight": 2.0, "mix": [{"shards": triplets, "weight": 1.0}], "views": VIEWS} | settings
    )


@pytest.mark.parametrize("order", ["global", "window"])
def test_batches_of_a_mixture_are_the_same_on_two_ranks_and_after_a_resume(
    order: str, clips: Path, triplets: Path
) -> None:
    settings = mixture(clips, triplets, order=OrderSettings.model_validate({"kind": order, "window": 2}))
    with Loader(settings, 4, range(5)) as loader:
        whole = list(loader)
        keys = [loader.mixture.origin(row).key for batch in whole for row in batch.plan.rows.tolist()]
    assert len(set(keys)) > 5
    resumed = []
    for rank in range(2):
        with Loader(settings, 4, range(3, 5), rank, 2) as loader:
            resumed.append(list(loader))
    for number, batch in enumerate(whole[3:]):
        parts = [half[number] for half in resumed]
        assert (np.concatenate([part.plan.rows for part in parts]) == batch.plan.rows).all()
        crops = torch.cat([part.global_crops.view(2, 2, 3, 32, 32) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(crops, batch.global_crops)
        masks = torch.cat([part.masks.view(2, 2, -1) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(masks, batch.masks)


def test_rows_of_a_mixture_map_to_their_datasets(clips: Path, triplets: Path) -> None:
    opened = DatasetMixture(mixture(clips, triplets))
    assert opened.table.dataset_sizes == ((((4, 4, 1)), 2.0), ((2, 2, 1), 1.0))
    rows, frames = np.array([13, 0, 9, 8]), np.array([2, 7, 0, 1])
    first, second = ShardDataset(clips), ShardDataset(triplets)
    expected = [second.frame(4, 2), first.frame(0, 7), second.frame(0, 0), first.frame(8, 1)]
    for ours, theirs in zip(opened.frames(rows, frames), expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    dataset, row, key = opened.origin(12)
    assert (dataset.folder, row, key) == (str(triplets), 3, "clip000003")
    assert key == str(second.keys[3])
    assert opened.table.height[[0, 9]].tolist() == [48, 64]


def test_triplets_are_read_as_stored_and_drawn_from_clips(clips: Path, triplets: Path) -> None:
    settings = mixture(clips, triplets)
    table = DatasetMixture(settings).table
    plans = [plan_batch(settings, table, step, 6, slice(0, 6)) for step in range(20)]
    rows, frames = np.concatenate([p.rows for p in plans]), np.concatenate([p.frames for p in plans])
    assert (frames[rows >= 9] == [1, 0, 2]).all()
    drawn = frames[rows < 9]
    assert (drawn[:, 1] < drawn[:, 0]).all()
    assert (drawn[:, 2] > drawn[:, 0]).all()
    assert len(np.unique(drawn[:, 0])) > 2
    alone = settings.model_copy(update={"sandwich": SandwichSettings(auxiliary=("future",))})
    assert (plan_batch(alone, table, 2, 6, slice(0, 6)).frames[:, 1][plans[2].rows >= 9] == 2).all()


def test_offsets_in_seconds_that_no_clip_has_are_refused(clips: Path, triplets: Path) -> None:
    seconds = SandwichSettings(unit="seconds")
    settings = ReaderSettings(shards=clips, sandwich=seconds)
    table = DatasetMixture(settings).table
    plans = [plan_batch(settings, table, step, 6, slice(0, 6)) for step in range(20)]
    assert {*np.diff(np.concatenate([p.frames[:, [1, 0, 2]] for p in plans])).ravel().tolist()} == {3, 4, 5}
    for offset, shown in (((0.05, 0.15), "0.05 to 0.15"), ((60.0, 90.0), "60 to 90")):
        wrong = SandwichSettings(unit="seconds", past_offset=offset, future_offset=offset)
        with pytest.raises(UserError, match=f"no clip of .* has frames {shown} seconds apart.* 2 frames a second"):
            DatasetMixture(ReaderSettings(shards=clips, sandwich=wrong))
        DatasetMixture(ReaderSettings(shards=triplets, sandwich=wrong))  # its frames are drawn already


def test_one_clip_that_is_long_enough_suffices(clips: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clips, tmp_path / "copy"))
    index = pq.read_table(copy / INDEX)
    durations_s = pa.array([1.0] * 8 + [5.0])  # 10 frames each
    pq.write_table(index.set_column(index.column_names.index("duration_s"), "duration_s", durations_s), copy / INDEX)
    seconds = ReaderSettings(shards=copy, sandwich=SandwichSettings(unit="seconds"))
    plan = plan_batch(seconds, DatasetMixture(seconds).table, 0, 9, slice(0, 9))
    assert ((plan.frames != plan.frames[:, :1]).any(axis=1) == (plan.rows == 8)).all()


def test_still_images_have_no_past(clips: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clips, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"media": "images"}))
    with pytest.raises(UserError, match=r"still images.*--data\.neighbours"):
        DatasetMixture(ReaderSettings(shards=copy))


def test_two_past_frames_of_triplets_are_refused(triplets: Path) -> None:
    with pytest.raises(UserError, match=r"one past and one future frame.*cannot be past,past"):
        DatasetMixture(ReaderSettings(shards=triplets, sandwich=SandwichSettings(auxiliary=("past", "past"))))


def test_a_mixture_is_given_on_the_command_line() -> None:
    mix = '[{"shards": "s3://bucket/b", "weight": 0.5}]'
    command = parse_command(PretrainCommand, ["--data.shards", "a", "--data.mix", mix, "--out", "run"])
    assert command.data.mix == (MixSettings(shards="s3://bucket/b", weight=0.5),)
    with pytest.raises(UserError, match=r"data\.mix\.0\.weight"):
        parse_command(PretrainCommand, ["--data.shards", "a", "--data.mix", mix.replace("0.5", "0"), "--out", "run"])


def test_neighbours_of_a_mixture_are_refused(clips: Path, triplets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.neighbours and data\.mix"):
        DatasetMixture(mixture(clips, triplets, neighbours=tmp_path))


def change_index(folder: Path, column: str, values: list[object]) -> None:
    table = pq.read_table(folder / INDEX)
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, table.schema.field(index), [values]), folder / INDEX)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"shard .*shard-000001\.tar is missing"),
        ("short", r"shard .*shard-000001\.tar has 1024 bytes; dataset\.json says \d+ bytes"),
        ("unknown shard", r"index\.parquet names the shard other\.tar"),
        ("beyond the end", r"index\.parquet has a frame beyond the end of its shard"),
        ("other columns", r"index\.parquet does not fit dataset\.json"),
        ("no table", r"index\.parquet is not a Parquet file"),
        ("too few frames", r"index\.parquet does not give an offset for every frame"),
    ],
)
def test_a_damaged_dataset_is_refused(fault: str, message: str, clips: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clips, tmp_path / "copy"))
    offsets = pq.read_table(copy / INDEX)["frame_offset"].to_pylist()
    if fault == "missing":
        (copy / "shard-000001.tar").unlink()
    elif fault == "short":
        os.truncate(copy / "shard-000001.tar", 1024)
    elif fault == "unknown shard":
        change_index(copy, "shard", ["other.tar"] * len(offsets))
    elif fault == "beyond the end":
        offsets[3][2] = 10**7
        change_index(copy, "frame_offset", offsets)
    elif fault == "too few frames":
        offsets[3].pop()
        change_index(copy, "frame_offset", offsets)
    elif fault == "other columns":
        pq.write_table(pq.read_table(copy / INDEX).drop_columns("width"), copy / INDEX)
    else:
        (copy / INDEX).write_bytes(b"no table")
    with pytest.raises(UserError, match=message + r".*python -m pipeline\.verify .*copy"):
        DatasetMixture(ReaderSettings(shards=copy, views=VIEWS))


def test_another_format_version_is_refused(clips: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clips, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(UserError, match=r"dataset\.json has format version 2; this program reads 1: .*`make shards`"):
        DatasetMixture(ReaderSettings(shards=copy))


def test_boxes_of_the_current_frame_cannot_be_used_on_neighbours() -> None:
    values = {"shards": "clips", "neighbours": "table", "views": {"auxiliary_crop": "current"}}
    with pytest.raises(ValidationError, match=r"views\.auxiliary_crop = current cannot be used with neighbours"):
        ReaderSettings.model_validate(values)


def test_more_shards_than_open_files(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "many", MAX_OPEN_SHARDS + 5, frames=1, size=(16, 16), per_shard=1)
    dataset = ShardDataset(folder)
    rows = np.arange(len(dataset))
    first = [data.tobytes() for data in dataset.frames(rows, 0 * rows)]
    open_files = sum(str(entry.resolve()).startswith(str(folder)) for entry in Path("/proc/self/fd").iterdir())
    assert 0 < open_files <= MAX_OPEN_SHARDS
    assert [data.tobytes() for data in dataset.frames(rows, 0 * rows)] == first
    again = folder / "shard-000000.tar"
    (tmp_path / "new").write_bytes(again.read_bytes())
    (tmp_path / "new").replace(again)
    with pytest.raises(UserError, match=r"shard-000000\.tar was replaced while it was in use"):
        dataset.frames(rows, 0 * rows)
    dataset.close()
