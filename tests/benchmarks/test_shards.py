import json
from pathlib import Path

import pytest

from benchmarks.shards import ShardsBenchmark, main
from tests.media import write_clip, write_image


@pytest.mark.usefixtures("ray_here")
def test_compares_the_job_with_its_floor_and_with_the_recipes(tmp_path: Path) -> None:
    write_clip(tmp_path / "clips" / "a.mp4", 5.0, seed=0)
    write_image(tmp_path / "images" / "a.jpg", seed=0)
    command = ShardsBenchmark(
        clips=tmp_path / "clips",
        images=tmp_path / "images",
        clip_inputs=4,
        image_inputs=40,
        rounds=1,
        out=tmp_path / "result.json",
    )
    main(command)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["ratios"]) == 8
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert set(result["stage_seconds"]["clips"]) > {"check", "decode", "fetch", "write"}
