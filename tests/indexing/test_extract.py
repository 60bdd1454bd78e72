import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from indexing.extract import CropFeatures, ShardFeatures, part_name, spaced_frames
from pipeline.dataset import ShardDataset
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.indexing.conftest import SIZE
from tests.media import decode
from tests.training.backbone.made import HEADS, Plan, vit
from training.backbone.families import BackboneOptions
from training.backbone.foreign import read_backbone
from training.backbone.weights import load_backbone, save_backbone


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
        normalized = ((pixels - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)
        with torch.inference_mode():
            cls = backbone(torch.from_numpy(normalized.transpose(2, 0, 1))[None]).cls[0]
        features.append((cls / cls.norm()).numpy())
    return np.stack(features)


def test_features_are_unit_cls_tokens_of_center_crops(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    worker = ShardFeatures(image_dataset, weights, open_storage(str(tmp_path)), batch_size=5, threads=1)
    values = worker.features(np.arange(12)).astype(np.float32)
    assert values.shape == (12, 32)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=2e-3)
    expected = expected_features(image_dataset, weights)
    assert ((values * expected).sum(axis=1) > 0.98).all()  # DALI and Pillow decode and resize a little differently
    assert ((values @ expected.T).argmax(axis=1) == np.arange(12)).all()


def test_features_of_clips_are_means_over_evenly_spaced_frames(clip_dataset: Path) -> None:
    assert spaced_frames(12, 1).tolist() == [6]
    assert spaced_frames(12, 3).tolist() == [2, 6, 10]
    assert spaced_frames(2, 8).tolist() == [0, 1]
    assert spaced_frames(1, 8).tolist() == [0]
    dataset, seen = ShardDataset(clip_dataset), []

    def embed(crops: torch.Tensor) -> torch.Tensor:
        seen.append(crops.mean((2, 3)))
        return seen[-1]

    rows = np.array([4, 1])
    result = CropFeatures(dataset, embed, SIZE, torch.device("cpu"), batch_size=4, threads=1, frames=3)(rows, "they")
    colors = torch.cat(seen).double().numpy().reshape(2, 3, 3)
    expected = colors.mean(1) / np.linalg.norm(colors.mean(1), axis=1, keepdims=True)
    np.testing.assert_allclose(result.astype(float), expected, atol=1e-3)
    for row, of_frames in zip(rows.tolist(), colors, strict=True):
        for number, color in zip(spaced_frames(int(dataset.num_frames[row]), 3), of_frames, strict=True):
            pixels = decode(dataset.frame(row, int(number))) / 255
            mean = ((pixels - IMAGENET_MEAN) / IMAGENET_STD).mean((0, 1))
            assert np.abs(color - mean).max() < 0.25  # the center crop against the whole frame


def test_weights_of_another_project_give_the_features_of_their_export(image_dataset: Path, tmp_path: Path) -> None:
    torch.save(vit(Plan()), tmp_path / "dino.pth")
    options = BackboneOptions(family="dino", heads=HEADS)
    save_backbone(tmp_path / "export.safetensors", read_backbone(tmp_path / "dino.pth", options).backbone, {})
    out, rows = open_storage(str(tmp_path)), np.arange(5)
    foreign = ShardFeatures(image_dataset, tmp_path / "dino.pth", out, batch_size=5, threads=1, options=options)
    own = ShardFeatures(image_dataset, tmp_path / "export.safetensors", out, batch_size=5, threads=1)
    np.testing.assert_array_equal(foreign.features(rows), own.features(rows))


def test_a_shard_has_the_same_bytes_in_any_order_and_company(
    image_dataset: Path, weights: Path, tmp_path: Path
) -> None:
    for name, shards in (("a", [0, 1, 2]), ("b", [2, 0]), ("c", [1])):
        worker = ShardFeatures(image_dataset, weights, open_storage(str(tmp_path / name)), batch_size=3, threads=1)
        assert [worker.run(shard) for shard in shards] == [4] * len(shards)
    for name, shard in (("b", 0), ("b", 2), ("c", 1)):
        assert (tmp_path / name / part_name(shard)).read_bytes() == (tmp_path / "a" / part_name(shard)).read_bytes()


def test_a_damaged_image_is_named(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(image_dataset, copy)
    dataset = ShardDataset(copy)
    shard = copy / dataset.manifest.shards[dataset.shard[5]].file
    content, jpeg = bytearray(shard.read_bytes()), dataset.frame(5, 0).tobytes()
    start = bytes(content).find(jpeg)
    content[start + 200 : start + len(jpeg)] = bytes(len(jpeg) - 200)
    shard.write_bytes(content)
    worker = ShardFeatures(copy, weights, open_storage(str(tmp_path)), batch_size=4, threads=1)
    with pytest.raises(UserError, match=f"frame 0 of sample {dataset.keys[5]} in .*copy/shard-000001.tar is damaged"):
        worker.run(int(dataset.shard[5]))


def test_weights_that_give_no_numbers_are_named(image_dataset: Path, weights: Path, tmp_path: Path) -> None:
    backbone = load_backbone(weights)
    with torch.no_grad():
        backbone.norm.weight.fill_(3e38)  # finite, but their products are not
    save_backbone(tmp_path / "huge.safetensors", backbone, {})
    worker = ShardFeatures(
        image_dataset, tmp_path / "huge.safetensors", open_storage(str(tmp_path)), batch_size=4, threads=1
    )
    with pytest.raises(UserError, match=r"features by .*huge\.safetensors hold .*not finite numbers, first in row 4"):
        worker.run(1)
