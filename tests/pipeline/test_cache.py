"""The local cache of remote shards, against a real S3 API on this machine."""

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.made_shards import make_shards
from pipeline.cache import ShardCache
from pipeline.clips import ClipDataset
from pipeline.dataset import ShardDataset, read_manifest
from pipeline.files import locked
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.frames import Sandwich, Uniform
from pipeline.sampling.order import OrderSettings
from pipeline.sampling.views import ViewSettings
from pipeline.settings import UserError
from pipeline.shard_stream import streaming
from pipeline.storage import Storage, open_storage

VIEWS = ViewSettings(global_size=32, local_crops=0)
WINDOW = OrderSettings(kind="window", window=1)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips in 6 shards."""
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 24, frames=8, size=(64, 48), per_shard=4)


@pytest.fixture(scope="module")
def remote(local: Path, bucket: str) -> Storage:
    """The same dataset in a bucket."""
    storage = open_storage(f"{bucket}/reader/clips")
    for path in local.iterdir():
        storage.write(path.name, path.read_bytes())
    return storage


def shards_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.tar"))


def cached_bytes(folder: Path) -> int:
    """Bytes of the shards in a cache folder, while no thread evicts or allocates; one may be renamed meanwhile."""
    sizes = []
    with locked(folder / "cache.lock"):
        for path in shards_in(folder):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
    return sum(sizes)


def shard_bytes(folder: Path) -> int:
    return max(shard.bytes for shard in read_manifest(folder).shards)


def test_remote_batches_equal_local_ones_within_the_limit(local: Path, remote: Storage, tmp_path: Path) -> None:
    limit = 3 * shard_bytes(local)
    common = {"views": VIEWS, "order": WINDOW, "seed": 3}
    settings = ReaderSettings(shards=str(remote), cache=tmp_path, cache_gb=limit / 1e9, **common)
    most = 0
    with Loader(ReaderSettings(shards=local, **common), 6, range(12)) as loader:
        expected = list(loader)
    with Loader(settings, 6, range(12)) as loader:
        for ours, theirs in zip(loader, expected, strict=True):
            assert torch.equal(ours.global_crops, theirs.global_crops)
            assert (ours.plan.rows == theirs.plan.rows).all()
            most = max(most, cached_bytes(tmp_path))
    assert 0 < most <= limit
    assert not list(tmp_path.glob("*/.tmp-*"))


def test_a_cached_shard_is_not_fetched_again(local: Path, bucket: str, tmp_path: Path) -> None:
    storage, manifest = open_storage(f"{bucket}/reader/once"), read_manifest(local)
    storage.write(manifest.shards[0].file, (local / manifest.shards[0].file).read_bytes())
    cache = ShardCache(tmp_path, 10**9)
    path = cache.fetch(storage, manifest, 0)
    storage.remove(manifest.shards[0].file)
    changed = path.stat().st_mtime_ns
    assert ShardCache(tmp_path, 10**9).fetch(storage, manifest, 0) == path
    assert path.read_bytes() == (local / manifest.shards[0].file).read_bytes()
    assert path.stat().st_mtime_ns == changed, "readers take a new mtime for new bytes"


def test_the_least_recently_used_shard_is_evicted(local: Path, remote: Storage, tmp_path: Path) -> None:
    manifest = read_manifest(local)
    cache = ShardCache(tmp_path, 2 * shard_bytes(local) + 1000)
    names = []
    for number in (0, 1, 0, 2):
        cache.fetch(remote, manifest, number)
        names.append({path.name for path in shards_in(tmp_path)})
        time.sleep(0.01)
    assert names[-1] == {"shard-000000.tar", "shard-000002.tar"}


def test_tars_that_were_not_fetched_are_kept(local: Path, remote: Storage, tmp_path: Path) -> None:
    manifest = read_manifest(local)
    users = [tmp_path / "0123456789abcdef" / "mine.tar", tmp_path / "k400" / ".tmp-part.tar-1"]
    for path in users:
        path.parent.mkdir()
        path.write_bytes(bytes(3 * shard_bytes(local)))
        os.utime(path, (0, 0))
    cache = ShardCache(tmp_path, 2 * shard_bytes(local) + 1000)
    for number in range(3):
        cache.fetch(remote, manifest, number)
    assert all(path.exists() for path in users)
    assert len(shards_in(tmp_path)) == 2 + 1


def test_a_cache_that_is_too_small_is_refused_before_the_first_batch(
    local: Path, remote: Storage, tmp_path: Path
) -> None:
    gigabytes = 1.5 * shard_bytes(local) / 1e9
    settings = ReaderSettings(shards=str(remote), views=VIEWS, order=WINDOW, cache=tmp_path, cache_gb=gigabytes)
    with pytest.raises(UserError, match=r"data\.cache_gb is .* needed for two windows of 1 shards: raise it"):
        Loader(settings, 4, range(1))
    everything = settings.model_copy(update={"order": OrderSettings(), "cache_gb": 4 * gigabytes / 1.5})
    with pytest.raises(UserError, match=r"order\.kind global, which draws from all shards"):
        Loader(everything, 4, range(1))
    with pytest.raises(UserError, match=r"is remote: give data\.cache"):
        Loader(ReaderSettings(shards=str(remote), views=VIEWS), 4, range(1))


@pytest.mark.parametrize("fault", ["other bytes", "missing", "short"])
def test_a_remote_shard_must_match_the_manifest(fault: str, local: Path, bucket: str, tmp_path: Path) -> None:
    storage, manifest = open_storage(f"{bucket}/reader/{fault.replace(' ', '-')}"), read_manifest(local)
    data = (local / manifest.shards[0].file).read_bytes()
    content = {"other bytes": data[:-1] + b"x", "short": data[:-1]}.get(fault)
    if content is not None:
        storage.write(manifest.shards[0].file, content)
    with pytest.raises(UserError, match=r"shard s3://.*shard-000000\.tar.*pipeline\.verify s3://"):
        ShardCache(tmp_path, 10**9).fetch(storage, manifest, 0)
    assert not shards_in(tmp_path)


def test_several_processes_fetch_a_shard_once(local: Path, remote: Storage, tmp_path: Path) -> None:
    manifest = read_manifest(local)
    caches = [ShardCache(tmp_path, 10**9) for _ in range(4)]  # their locks act as those of processes
    inodes: list[int] = []

    def fetch(cache: ShardCache) -> None:
        inodes.append(cache.fetch(remote, manifest, 0).stat().st_ino)

    threads = [threading.Thread(target=fetch, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inodes) == 4
    assert len(set(inodes)) == 1


def test_unfinished_downloads_of_killed_processes_are_removed(local: Path, remote: Storage, tmp_path: Path) -> None:
    manifest, size = read_manifest(local), shard_bytes(local)
    cache = ShardCache(tmp_path, 2 * size)
    left = cache.path(manifest, 1).with_name(".tmp-shard-000001.tar-0123456789ab")
    busy = cache.path(manifest, 2).with_name(".tmp-shard-000002.tar-0123456789ab")
    left.parent.mkdir(parents=True)
    left.with_name("shard-000001.tar.lock").touch()
    for path in (left, busy):
        path.write_bytes(b"")
        os.truncate(path, size)
    with busy.with_name("shard-000002.tar.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process is downloading this one
        cache.fetch(remote, manifest, 0)
    assert busy.exists()
    assert not left.exists()


def test_requested_shards_are_fetched_in_the_background(local: Path, remote: Storage, tmp_path: Path) -> None:
    manifest = read_manifest(local)
    cache = ShardCache(tmp_path, 10**9)
    cache.request(remote, manifest, [4, 2])
    cache.request(remote, manifest, [2, 5])
    deadline = time.monotonic() + 20
    while len(shards_in(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    cache.close()
    assert [path.name for path in shards_in(tmp_path)] == [f"shard-{number:06d}.tar" for number in (2, 4, 5)]


def test_forked_workers_fetch_with_connections_of_their_own(local: Path, remote: Storage, tmp_path: Path) -> None:
    clips: Any = ClipDataset(str(remote), Uniform(1), cache=ShardCache(tmp_path, 10**8))
    first = clips[0].frames[0]
    loader: Any = torch.utils.data.DataLoader(clips, None, num_workers=1, multiprocessing_context="fork")
    expected = [sample.frames[0] for sample in ClipDataset(local, Uniform(1))]
    assert np.array_equal(first, expected[0])
    assert np.array_equal(torch.stack([sample.frames[0] for sample in loader]), expected)


def test_a_stream_reads_from_the_object_store_without_a_cache(local: Path, remote: Storage) -> None:
    streams = [streaming(uri, seed=1).draw(Sandwich()) for uri in (str(remote), local)]
    ours, theirs = ([(s["__key__"], s["__frames__"], s["1.jpg"]) for s in stream] for stream in streams)
    assert ours == theirs
    with pytest.raises(UserError, match=r"is remote: read its frames with ClipDataset"):
        ShardDataset(str(remote)).frame(0, 0)
