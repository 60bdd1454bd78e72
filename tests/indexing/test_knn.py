import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from indexing.command import KnnCommand
from indexing.job import SearchSettings
from indexing.knn import GALLERY, LOCK, SHEET, group_numbers, main
from indexing.report import REPORT
from indexing.search import Rules
from indexing.store import FEATURES
from pipeline.dataset import ShardDataset, read_manifest
from pipeline.files import sha256_file
from pipeline.neighbours import NEIGHBOURS, read_neighbours
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.masks import MaskSettings
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD, ViewSettings
from pipeline.settings import UserError, parse_command
from pipeline.storage import open_storage
from tests.indexing.made import unit_vectors, write_npy, write_rows
from tests.indexing.oracle import all_neighbours
from tests.media import decode


def knn(**values: Any) -> None:
    main(KnnCommand.model_validate(values))


@pytest.fixture(scope="module")
def table(image_dataset: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("neighbours")
    knn(shards=image_dataset, weights=weights, out=out, k=3, batch_size=5, workers=0, gallery=4)
    return out


def similarities(folder: Path) -> np.ndarray:
    return np.stack(pq.read_table(folder / NEIGHBOURS)["similarity"].to_numpy())


def test_table_and_report_name_their_sources(table: Path, image_dataset: Path, weights: Path) -> None:
    manifest = read_manifest(image_dataset)
    neighbours = pq.read_table(table / NEIGHBOURS)
    metadata = {key.decode(): value.decode() for key, value in neighbours.schema.metadata.items()}
    report = json.loads((table / REPORT).read_text())
    for source in (metadata, report):
        assert source["dataset_hash"] == manifest.dataset_hash
        assert source["weights_hash"] == sha256_file(weights)
        assert source["metric"] == "cosine"
        assert int(source["k"]) == 3
    label = ShardDataset(image_dataset).label
    rows = read_neighbours(table, manifest)
    assert report["same_class_rate"] == pytest.approx((label[rows] == label[:, None]).mean())
    assert report["features_per_second"] == pytest.approx(12 / report["feature_seconds"])
    assert report["peak_memory_gb"] > 0  # here of all tests so far; tests/benchmarks/test_knn.py holds it to a budget
    assert report["recall"] is None
    names = ["features.parquet", "gallery.html", "gallery.png", NEIGHBOURS, REPORT]
    assert sorted(path.name for path in table.iterdir()) == names


def test_neighbours_are_those_of_the_features(table: Path, image_dataset: Path) -> None:
    features = np.stack(pq.read_table(table / "features.parquet")["feature"].to_numpy()).astype(np.float32)
    expected = all_neighbours(features, Rules(3))
    np.testing.assert_array_equal(read_neighbours(table, read_manifest(image_dataset)), expected.rows)
    np.testing.assert_array_equal(similarities(table), expected.similarity.astype(np.float32))


def test_the_same_command_again_changes_nothing(
    table: Path, image_dataset: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in table.iterdir()}
    knn(shards=image_dataset, weights=weights, out=table, k=3, batch_size=5)
    assert {path.name: path.stat().st_mtime_ns for path in table.iterdir()} == before
    message = capsys.readouterr().out
    assert "the table is up to date: 12 images, k = 3" in message
    assert message.endswith(f"{table}/{NEIGHBOURS}; look at {table}/gallery.html\n")


def test_a_second_run_at_once_is_kept_out(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    with (
        open_storage(str(tmp_path)).exclusive_lock(LOCK),
        pytest.raises(UserError, match="another job is writing to"),
    ):
        knn(shards=image_dataset, weights=weights, out=tmp_path)


def test_paths_are_printed_as_given(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_npy(tmp_path / "f.npy", unit_vectors(40))
    for k, gallery in ((3, 2), (4, 0)):
        knn(shards=frames, features="f.npy", out="table", k=k, gallery=gallery)
    with_gallery, without = [line for line in capsys.readouterr().out.splitlines() if " images, k = " in line]
    assert with_gallery.endswith("; table/neighbours.parquet; look at table/gallery.html")
    assert without.endswith("; table/neighbours.parquet")
    assert not (tmp_path / "table" / "gallery.html").exists(), "a gallery of another table does not stay"


def test_another_k_uses_the_existing_features(table: Path, image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "features.parquet").write_bytes((table / "features.parquet").read_bytes())
    knn(shards=image_dataset, weights=weights, out=tmp_path, k=2, gallery=0)
    rows = read_neighbours(tmp_path, read_manifest(image_dataset))
    np.testing.assert_array_equal(rows, read_neighbours(table, read_manifest(image_dataset))[:, :2])
    assert json.loads((tmp_path / REPORT).read_text())["feature_seconds"] is None


def test_reader_shows_the_pixels_of_the_neighbours_in_the_table(table: Path, image_dataset: Path) -> None:
    views = ViewSettings(
        global_size=64, local_size=32, local_crops=1, jitter=0, gray=0, blur=(0, 0, 0), solarize=(0, 0, 0)
    )
    masks = MaskSettings(probability=1.0)
    settings = ReaderSettings(shards=image_dataset, neighbours=table, views=views, masks=masks)
    rows = read_neighbours(table, read_manifest(image_dataset))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    drawn = set()
    with Loader(settings, 12, range(3)) as loader:
        pictures = [Image.fromarray(decode(loader.dataset.frame(row, 0))) for row in range(12)]
        for batch in loader:
            plan = batch.plan
            assert len(batch.auxiliary) == 1
            for index, row in enumerate(plan.rows.tolist()):
                neighbour = int(plan.source_rows[index, 1])
                assert neighbour in rows[row]
                drawn.add((row, neighbour))
                top, left, height, width = (float(edge[index, -2]) for edge in plan.boxes)
                box = (left, top, left + width, top + height)
                shown = (255 * (batch.auxiliary[0][index] * std + mean)).numpy().transpose(1, 2, 0)
                crops = [np.asarray(p.resize((64, 64), Image.Resampling.BICUBIC, box), float) for p in pictures]
                away = [np.abs(shown - crop).mean() for crop in crops]
                assert int(np.argmin(away)) == neighbour
                assert away[neighbour] < 6  # of 255 levels; DALI and Pillow decode and resize a little differently
    assert len(drawn) > 12, "more than one neighbour of a row is drawn in three epochs"


def test_table_of_other_shards_is_refused(table: Path, clip_dataset: Path) -> None:
    with pytest.raises(UserError, match="made from other shards"):
        read_neighbours(table, read_manifest(clip_dataset))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows; by their keys four frames each of ten clips."""
    folder = write_rows(tmp_path_factory.mktemp("made") / "frames", 40, name="clip{:02d}_1")
    index = pq.read_table(folder / "index.parquet")
    keys = pa.array([f"clip{row // 4}_{row:04d}" for row in range(40)])
    pq.write_table(index.set_column(0, index.schema.field("key"), keys), folder / "index.parquet")
    return folder


def test_frames_of_one_clip_are_no_neighbours(frames: Path, tmp_path: Path) -> None:
    features = unit_vectors(10).repeat(4, axis=0)
    values = {"shards": frames, "features": write_npy(tmp_path / "f.npy", features), "k": 4}
    knn(**values, out=tmp_path / "all")
    rows = read_neighbours(tmp_path / "all", read_manifest(frames))
    assert (rows[:, :3] // 4 == np.arange(40)[:, None] // 4).all()
    knn(**values, out=tmp_path / "others", exclude_same_group=r"^(.+)_\d+$")
    rows = read_neighbours(tmp_path / "others", read_manifest(frames))
    assert (rows // 4 != np.arange(40)[:, None] // 4).all()
    knn(**values, out=tmp_path / "different", max_similarity=0.999)
    np.testing.assert_array_equal(rows, read_neighbours(tmp_path / "different", read_manifest(frames)))


def test_a_key_without_a_group_is_named() -> None:
    keys = pa.chunked_array([["a_1", "b_1", "a_2"]])
    assert group_numbers(keys, r"(.+)_\d").tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="does not match the key 'b_1'"):
        group_numbers(keys, r"(a)_\d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 40}, "k = 40 needs more than 40 images"),
        ({"k": 37, "exclude_same_group": "(.+)_"}, "k = 37 needs 37 images outside a group; the largest group has 4"),
        ({"features": None, "weights": Path("nowhere.safetensors")}, r"no weights at nowhere\.safetensors"),
        ({"features": Path("nowhere.npy")}, r"no features at nowhere\.npy"),
        ({"search": SearchSettings(approximate=True)}, "for sets of 4000000 images or more; .* holds 40"),
        ({"search": SearchSettings(memory_gb=0.1)}, r"search\.memory_gb = 0\.1 is too little"),
        ({"search": SearchSettings(approximate=True, approximate_from=1, memory_gb=0.45)}, r"needs search\.memory_gb"),
    ],
)
def test_bad_input_is_one_sentence(change: dict[str, Any], message: str, frames: Path, tmp_path: Path) -> None:
    values = {"shards": frames, "features": write_npy(tmp_path / "f.npy", unit_vectors(40)), "out": tmp_path / "out"}
    with pytest.raises(UserError, match=message):
        knn(**{**values, **change})


@pytest.mark.parametrize("name", [FEATURES, NEIGHBOURS, REPORT, GALLERY, SHEET])
def test_foreign_files_are_not_replaced(name: str, frames: Path, tmp_path: Path) -> None:
    table = pa.table({"feature": unit_vectors(40).tolist()})
    pq.write_table(table, tmp_path / "out.parquet")
    own = (tmp_path / "out.parquet").read_bytes() if name.endswith(".parquet") else b'{"mine": 1}'
    (tmp_path / name).write_bytes(own)
    features = tmp_path / (name if name == FEATURES else "out.parquet")  # --features OUT/features.parquet
    with pytest.raises(UserError, match=f"{name} was not written by this program and would be replaced: move it away"):
        knn(shards=frames, features=features, out=tmp_path, k=2, gallery=0)
    assert (tmp_path / name).read_bytes() == own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give either --weights or --features"),
        ("--features f.npy --shards s3://b/in1k", "shards = 's3://b/in1k': must be a folder on a file system"),
        ("--weights w --features f.npy", "give either --weights or --features"),
        ("--features f.npy --exclude_same_group (", "not a regular expression"),
        ("--features f.npy --exclude-same-group abc", "put parentheses around"),
        ("--features f.npy -k 0", "k = .*must be at least 1"),
        ("--features f.npy --search.where ray --search.approximate", "ray cannot be combined with search.approximate"),
        ("--features f.npy --search.where ray --search.device gpu", "ray cannot be combined with search.device = gpu"),
        (
            "--features f.npy --search.where ray --workers 0",
            "workers = 0 .* cannot be combined with search.where = ray",
        ),
    ],
)
def test_bad_options_are_one_sentence(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_command(KnnCommand, ["--shards", "s", "--out", "o", *words.split()])


def test_without_workers_the_search_is_local(frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # another test's session would be used
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where no cluster answers
    write_npy(tmp_path / "f.npy", unit_vectors(40))
    knn(shards=frames, features=tmp_path / "f.npy", out=tmp_path, k=2, gallery=0, workers=0)
    assert (tmp_path / NEIGHBOURS).is_file()
    with pytest.raises(UserError, match="no Ray cluster answers at RAY_ADDRESS"):
        knn(shards=frames, features=tmp_path / "f.npy", out=tmp_path, k=3, gallery=0)


@pytest.mark.parametrize("option", ["-k", "--k", "--neighbours"])
def test_k_has_a_long_name_too(option: str) -> None:
    assert parse_command(KnnCommand, ["--shards", "s", "--out", "o", "--weights", "w", option, "7"]).k == 7
