import json
from pathlib import Path

import pytest

from benchmarks.made_shards import make_shards
from benchmarks.sizes import SizesBenchmark, main
from pipeline.dataset import ShardDataset
from pipeline.settings import UserError, parse_command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_shards(tmp_path_factory.mktemp("made"), clips=5, frames=4, size=(64, 48), per_shard=3)
    for tar in folder.glob("*.tar"):
        tar.with_suffix(".idx").write_bytes(b"x" * 50)
    return folder


def test_means_are_those_of_the_files(made: Path, tmp_path: Path) -> None:
    main(SizesBenchmark(clips=made, out=tmp_path / "sizes.json"))
    result = json.loads((tmp_path / "sizes.json").read_text())["clips"]
    dataset = ShardDataset(made)
    frames = [len(dataset.frame(row, frame)) for row in range(5) for frame in range(4)]
    dataset.close()
    assert (result["samples"], result["frames"]) == (5, 20)
    assert result["jpeg_bytes_a_frame"] == pytest.approx(sum(frames) / 20)
    assert result["shard_bytes_a_frame"] == pytest.approx(sum(tar.stat().st_size for tar in made.glob("*.tar")) / 20)
    assert result["index_bytes_a_sample"] == pytest.approx((made / "index.parquet").stat().st_size / 5)
    assert result["idx_bytes_a_sample"] == pytest.approx(2 * 50 / 5)


def test_clips_given_as_images_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 5 samples of clips in layout frames; --images needs images"):
        main(SizesBenchmark(images=made, out=tmp_path / "sizes.json"))


def test_something_must_be_given() -> None:
    with pytest.raises(UserError, match="give --clips, --images or both"):
        parse_command(SizesBenchmark, [])
