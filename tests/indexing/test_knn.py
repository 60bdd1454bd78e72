import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from indexing.knn import KnnCommand, main
from indexing.table import read_neighbours
from pipeline.dataset import ShardDataset, read_manifest
from pipeline.files import sha256_file
from pipeline.reader.loader import Loader, ReaderSettings
from pipeline.reader.views import IMAGENET_MEAN, IMAGENET_STD, ViewSettings
from pipeline.settings import UserError
from tests.media import decode
from training.vit import VitSettings, random_backbone
from training.weights import load_backbone, save_backbone

SIZE = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    settings = VitSettings(width=32, depth=2, heads=2, image_size=SIZE, layer_scale=1.0)
    save_backbone(path, random_backbone(settings, seed=1), {})
    return path


@pytest.fixture(scope="module")
def table(image_dataset: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("neighbours")
    main(KnnCommand(shards=image_dataset, weights=weights, out=out, k=3, batch_size=5))
    return out


def expected_features(image_dataset: Path, weights: Path) -> np.ndarray:
    """The features by Pillow and plain torch."""
    dataset, backbone = ShardDataset(image_dataset), load_backbone(weights)
    features = []
    for row in range(len(dataset)):
        image = Image.fromarray(decode(dataset.frame(row, 0)))
        factor = round(SIZE * 256 / 224) / min(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE))) / 255
        normalised = ((pixels - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)
        with torch.inference_mode():
            cls = backbone(torch.from_numpy(normalised.transpose(2, 0, 1))[None]).cls[0]
        features.append((cls / cls.norm()).numpy())
    return np.stack(features)


def test_features_are_unit_cls_tokens_in_row_order(table: Path, image_dataset: Path, weights: Path) -> None:
    features = pq.read_table(table / "features.parquet")
    assert features["key"].to_pylist() == ShardDataset(image_dataset).keys.to_pylist()
    values = np.stack(features["feature"].to_numpy()).astype(np.float32)
    assert values.shape == (12, 32)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=2e-3)
    expected = expected_features(image_dataset, weights)
    assert ((values * expected).sum(axis=1) > 0.98).all()  # DALI and Pillow decode and resize a little differently
    closest = (values @ expected.T).argmax(axis=1)
    assert (closest == np.arange(12)).all()


def test_table_and_report_say_where_they_come_from(table: Path, image_dataset: Path, weights: Path) -> None:
    manifest = read_manifest(image_dataset)
    neighbours = pq.read_table(table / "neighbours.parquet")
    metadata = {key.decode(): value.decode() for key, value in neighbours.schema.metadata.items()}
    report = json.loads((table / "report.json").read_text())
    for source in (metadata, report):
        assert source["dataset_hash"] == manifest.dataset_hash
        assert source["weights_hash"] == sha256_file(weights)
        assert int(source["k"]) == 3
    rows = read_neighbours(table, manifest)
    assert rows.shape == (12, 3)
    assert (rows != np.arange(12)[:, None]).all()
    label = ShardDataset(image_dataset).label
    assert report["same_class_rate"] == pytest.approx((label[rows] == label[:, None]).mean())
    similarity = np.stack(neighbours["similarity"].to_numpy())
    assert (np.diff(similarity, axis=1) <= 0).all()


def test_reader_draws_the_neighbours_of_the_table(table: Path, image_dataset: Path) -> None:
    views = ViewSettings(
        global_size=64, local_size=32, local_crops=1, jitter=0, grey=0, blur=(0, 0, 0), solarize=(0, 0, 0)
    )
    settings = ReaderSettings(shards=image_dataset, neighbours=table, views=views)
    rows = read_neighbours(table, read_manifest(image_dataset))
    with Loader(settings, 12, 0, 2) as loader:
        for batch in loader:
            assert len(batch.auxiliary) == 1
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            pixels = (255 * (batch.auxiliary[0][:12] * std + mean)).mean(dim=(2, 3)).numpy()
            levels = np.stack([decode(loader.dataset.frame(row, 0)).mean(axis=(0, 1)) for row in range(12)])
            shown = np.abs(pixels[:, None] - levels[None]).sum(axis=2).argmin(axis=1)
            for row, neighbour in zip(batch.rows.tolist(), shown.tolist(), strict=True):
                assert neighbour in rows[row]


def test_table_of_other_shards_is_refused(table: Path, clip_dataset: Path) -> None:
    with pytest.raises(UserError, match="made from other shards"):
        read_neighbours(table, read_manifest(clip_dataset))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 12}, "k = 12 needs more than 12 images"),
        ({"weights": Path("nowhere.safetensors")}, r"no weights at nowhere\.safetensors"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], message: str, image_dataset: Path, weights: Path, tmp_path: Path
) -> None:
    values = {"shards": image_dataset, "weights": weights, "out": tmp_path, "k": 3} | change
    with pytest.raises(UserError, match=message):
        main(KnnCommand.model_validate(values))


def test_search_process_holds_no_torch() -> None:
    program = "import indexing.knn, sys; assert 'faiss' in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
