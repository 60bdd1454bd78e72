"""Fixtures that more than one folder of tests uses."""

import contextlib
import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.media import write_clip, write_image

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips and images beside the project; tests that need them are skipped elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real sample clips and images (../shared/data) are not on this machine")
    return SHARED_DATA


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2000k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def unusable_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NVIDIA GPU for which PyTorch finds no driver."""
    from pipeline import gpus

    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.init", _no_driver)
    (tmp_path / "nvidia0").touch()


def _no_driver() -> None:
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it.")


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of the S3 server of `bucket`, put into the environment before Ray starts, so that its workers see it."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield port


@pytest.fixture(scope="session")
def ray_here(s3_port: int) -> Iterator[None]:
    """One Ray session with one worker for all jobs in this process."""
    from pipeline.ray.session import ray_session
    from pipeline.settings import UserError

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(ray_session(workers=1))
        except UserError:  # on a busy machine Ray gives up after 30 seconds
            stack.enter_context(ray_session(workers=1))
        yield


@pytest.fixture(scope="session")
def bucket(s3_port: int) -> Iterator[str]:
    """URI of an empty bucket of a real S3 API on this machine; processes started by the test can use it as well."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False)
    server.start()
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def clip_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Kinetics-style tree: two classes, six good clips, one too short, one that is not a video."""
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
def slow_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Inputs whose job (`--clips.length 4`) takes some seconds, and its undisturbed result: 40 samples of 20 files."""
    root = tmp_path_factory.mktemp("slow")
    clip = root / "clip.mp4"
    write_clip(clip, seconds=8.0, seed=0, size=(480, 360))
    (root / "data" / "class").mkdir(parents=True)
    for number in range(20):
        shutil.copy(clip, root / "data" / "class" / f"clip{number}.mp4")
    return root / "data", write_dataset(root / "data", root / "undisturbed", 2, clips={"length": 4})


def write_dataset(data: Path, out: Path, samples_per_shard: int, **options: Any) -> Path:
    """Run the shard job in this process, without Ray."""
    from pipeline.shards.__main__ import main
    from tests.pipeline.shards.jobs import shards_command

    main(shards_command(data, out, samples_per_shard=samples_per_shard, **options))
    return out


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests run first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
