import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import ShardDataset, read_manifest
from pipeline.preview.strips import Draw, Strip, read_strips, reader_draws
from pipeline.preview.survey import choose, survey_dataset
from pipeline.sampling.plan import PlanSettings, SampleTable, plan_batch
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.media import decode


def strips_of(dataset: Path, draws: int = 2, seed: int = 5) -> list[Strip]:
    storage, manifest = open_storage(str(dataset)), read_manifest(dataset)
    chosen = choose(storage, manifest, survey_dataset(storage, manifest), 100, seed)
    return list(read_strips(storage, manifest, chosen, draws, PlanSettings(seed=seed)))


@pytest.mark.parametrize(
    ("sandwich", "order"),
    [
        ({}, ("past", "current", "future")),
        ({"unit": "seconds"}, ("past", "current", "future")),
        ({"auxiliary": ("past", "past")}, ("past", "past", "current")),
        ({"auxiliary": ()}, ("current",)),
    ],
)
def test_triplets_of_clips_are_those_of_the_reader(sandwich: dict[str, object], order: tuple[str, ...]) -> None:
    frames = np.array([8, 12, 20, 71, 300])
    side, duration_s = np.full(5, 256), frames / 2
    settings = PlanSettings.model_validate({"seed": 7, "sandwich": sandwich})
    table = SampleTable(frames, side, side, duration_s=duration_s)
    for epoch in range(3):
        plan = plan_batch(settings, table, epoch, 5, slice(None))
        for row, drawn in zip(plan.rows, plan.frames, strict=True):
            draw = reader_draws(int(row), int(frames[row]), duration_s[row], settings, count=3)[epoch]
            assert draw == Draw(f"epoch {epoch}", (*sorted(drawn.tolist()),), order)


def test_pictures_are_the_frames_of_the_clip(clip_dataset: Path) -> None:
    dataset = ShardDataset(clip_dataset)
    keys = dataset.keys.to_pylist()
    strips = strips_of(clip_dataset)
    assert [strip.key for strip in strips] == keys
    for row, strip in enumerate(strips):
        drawn = {frame for draw in strip.draws for frame in draw.frames}
        assert set(strip.pictures) == {*strip.even, *drawn}
        for frame, picture in strip.pictures.items():
            assert np.array_equal(np.asarray(picture), decode(dataset.frame(row, frame)))
            assert strip.times_s[frame] == pytest.approx(frame / 2, abs=0.1)
        assert strip.num_frames == dataset.num_frames[row]


def test_triplets_are_those_in_the_shards(triplet_dataset: Path, clip_dataset: Path) -> None:
    dataset = ShardDataset(triplet_dataset)
    whole = {strip.key: strip for strip in strips_of(clip_dataset)}
    for number, strip in enumerate(strips_of(triplet_dataset)):
        assert [draw.name for draw in strip.draws] == ["triplet 0", "triplet 1"]
        assert strip.num_frames == whole[strip.key].num_frames
        assert strip.even == []
        for index, draw in enumerate(strip.draws):
            for role, frame in enumerate(draw.frames):
                shown = np.asarray(strip.pictures[frame])
                assert np.array_equal(shown, decode(dataset.frame(2 * number + index, role)))
                assert strip.times_s[frame] == whole[strip.key].times_s[frame]


def test_an_image_has_one_picture_and_no_triplets(image_dataset: Path) -> None:
    for strip in strips_of(image_dataset):
        assert (list(strip.pictures), strip.draws, strip.num_frames) == ([0], [], 1)


def test_damaged_shards_are_named(image_dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(image_dataset, tmp_path / "copy"))
    row = pq.read_table(copy / "index.parquet").to_pylist()[5]
    shard = copy / row["shard"]
    data = bytearray(shard.read_bytes())
    data[row["frame_offset"][0] : row["frame_offset"][0] + 600] = bytes(600)
    shard.write_bytes(data)
    with pytest.raises(UserError, match=f"cannot read {row['key']} in .*{row['shard']}.*pipeline.verify {copy}"):
        strips_of(copy)
    shard.unlink()
    with pytest.raises(UserError, match="FileNotFoundError"):
        strips_of(copy)


@pytest.mark.parametrize("dataset", ["clip_dataset", "triplet_dataset"])
def test_times_are_read_from_json(dataset: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In a copy whose times at half seconds are changed to a tenth of a second earlier."""
    copy = Path(shutil.copytree(request.getfixturevalue(dataset), tmp_path / "copy"))
    for shard in copy.glob("*.tar"):
        times = re.compile(rb'"times_s": \[[^]]*\]')
        shard.write_bytes(times.sub(lambda match: match[0].replace(b".5", b".4"), shard.read_bytes()))
    for strip in strips_of(copy):
        assert {frame: frame / 2 - 0.1 * (frame % 2) for frame in strip.pictures} == {
            frame: pytest.approx(strip.times_s[frame]) for frame in strip.pictures
        }
