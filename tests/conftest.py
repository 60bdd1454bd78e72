"""Fixtures that more than one folder of tests uses."""

from pathlib import Path

import pytest

from tests.media import write_clip, write_image

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips and images, where they lie beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real sample clips and images (../shared/data) are not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def clip_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Kinetics-style tree: two classes, six good clips, one too short, one that is no video."""
    root = tmp_path_factory.mktemp("clips")
    for number, (class_name, name, seconds) in enumerate(
        [
            ("riding", "-abcdefghij_000001_000007", 6.0),
            ("riding", "bcdefghijkl_000001_000006", 5.0),
            ("riding", "short_000001_000002", 1.0),
            ("waving hands", "cdefghijklm_000010_000015", 4.5),
            ("waving hands", "defghijklmn_000010_000015", 5.0),
            ("waving hands", "with.dot and space", 5.0),
            ("waving hands", "efghijklmno_000010_000016", 6.0),
        ]
    ):
        write_clip(root / class_name / f"{name}.mp4", seconds, seed=number)
    (root / "riding" / "page.mp4").write_text("<html>not found</html>")
    (root / "riding" / "notes.txt").write_text("a file of another kind")
    return root


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ImageNet-style tree: three classes of four images."""
    root = tmp_path_factory.mktemp("images")
    for number in range(12):
        write_image(root / f"n{number % 3:08d}" / f"n{number % 3:08d}_{number}.JPEG", seed=number)
    return root


@pytest.fixture(scope="session")
def clip_dataset(clip_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `clip_tree` (6 samples in 3 shards)."""
    return write_dataset(clip_tree, tmp_path_factory.mktemp("shards") / "clips", samples_per_shard=3)


@pytest.fixture(scope="session")
def image_dataset(image_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `image_tree` (12 samples in 3 shards)."""
    return write_dataset(image_tree, tmp_path_factory.mktemp("shards") / "images", samples_per_shard=4)


@pytest.fixture(scope="session")
def real_clip_dataset(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the real clips."""
    return write_dataset(real_data / "videos", tmp_path_factory.mktemp("shards") / "real-clips", samples_per_shard=12)


def write_dataset(data: Path, out: Path, samples_per_shard: int) -> Path:
    """Run the shard job in this process, with one Ray worker."""
    from pipeline.shards.__main__ import ShardsCommand, main

    main(ShardsCommand(data=data, out=out, samples_per_shard=samples_per_shard, workers=1, max_reject_fraction=0.5))
    return out
