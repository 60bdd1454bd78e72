import json
from pathlib import Path

from benchmarks.features import FeaturesBenchmark, main
from benchmarks.made_shards import make_shards
from training.backbone.vit import VitSettings


def test_more_images_than_the_dataset_has_are_timed(tmp_path: Path) -> None:
    shards, out = make_shards(tmp_path / "shards", 3, frames=8, size=(48, 32)), tmp_path / "features.json"
    backbone = VitSettings(width=32, depth=1, heads=2, image_size=32)
    main(FeaturesBenchmark(shards=shards, out=out, images=7, batch_size=4, threads=1, backbone=backbone))
    result = json.loads(out.read_text())
    assert result["images_per_second"] > 0
    assert (result["images"], result["width"], result["batch_size"]) == (7, 32, 4)
