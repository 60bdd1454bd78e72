"""Shards of remote datasets as files on a local disk, never more than a given number of bytes."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.dataset import MANIFEST, Manifest, Shard, repair_hint
from pipeline.files import TEMPORARY_PREFIX, atomic_path, locked, remove
from pipeline.settings import UserError
from pipeline.storage import Storage

DOWNLOADS = 4
"""Shards that one process downloads at a time."""
CHUNK = 1 << 24
"""Bytes per request to the object store."""
_LOCK = ".lock"


def _status(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat()
    return None


class ShardCache:
    """A folder of whole shards, shared by all processes of a machine; the least recently used are evicted.

    A shard that is evicted while a process reads it stays readable until it is closed. Only shards that were fetched
    into the folder, recognized by the lock file next to each, are counted and evicted: the folder may hold other tars.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Use `folder` for at most `limit` bytes of shards."""
        self.folder, self.limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards")  # starts threads only when it is used
        self._requested: set[Path] = set()
        self._closed = threading.Event()

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[Path, int]]:
        return ShardCache, (self.folder, self.limit)

    def path(self, manifest: Manifest, number: int) -> Path:
        """Local path of a shard, whether it is in the cache or not."""
        return self.folder / manifest.dataset_hash[:16] / manifest.shards[number].file

    def fetch(self, storage: Storage, manifest: Manifest, number: int) -> Path:
        """Local path of a shard, downloaded if it is not in the cache.

        Raises:
            UserError: it cannot be read, its bytes do not match the manifest, or it does not fit into the limit.
        """
        path, shard = self.path(manifest, number), manifest.shards[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}{_LOCK}")):
            status = _status(path)
            if status is not None and status.st_size == shard.bytes:
                with contextlib.suppress(FileNotFoundError):  # another thread or process has just evicted it
                    # the access time marks its last use; readers take a changed mtime for changed bytes
                    os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
                    return path
            with atomic_path(path) as temporary:
                self._reserve(temporary, shard.bytes)
                self._download(storage, shard, temporary)
        return path

    def _download(self, storage: Storage, shard: Shard, path: Path) -> None:
        digest = hashlib.sha256()
        with path.open("r+b") as stream:
            for first in range(0, shard.bytes, CHUNK):
                if self._closed.is_set():
                    raise UserError(f"the download of {shard.file} was canceled")
                try:
                    data = storage.read(shard.file, (first, min(CHUNK, shard.bytes - first)))
                except (OSError, EOFError) as error:
                    message = str(error).rstrip(".")
                    raise UserError(
                        f"cannot read shard {storage}/{shard.file}: {message}. {repair_hint(storage)}"
                    ) from error
                digest.update(data)
                stream.write(data)
        if digest.hexdigest() != shard.sha256:
            raise UserError(
                f"shard {storage}/{shard.file} does not match its hash in {MANIFEST}. {repair_hint(storage)}"
            )

    def _reserve(self, temporary: Path, size: int) -> None:
        """Evict shards until `size` bytes are free, and allocate them before another process can."""
        with locked(self.folder / f"cache{_LOCK}"):
            self._remove_abandoned()
            files = [*self._fetched(), *self._unfinished()]
            statuses = {path: status for path in files if (status := _status(path))}
            free = self.limit - sum(status.st_size for status in statuses.values())
            for path, status in sorted(statuses.items(), key=lambda entry: entry[1].st_atime_ns):
                if free < size and not path.name.startswith(TEMPORARY_PREFIX):
                    remove(path)
                    free += status.st_size
            if free < size:
                raise UserError(
                    f"the shard cache {self.folder} of {self.limit / 1e9:.3g} GB is too small for the shards in use: "
                    "raise data.cache_gb or lower data.order.window"
                )
            with temporary.open("wb") as stream:
                stream.truncate(size)

    def _remove_abandoned(self) -> None:
        """Remove unfinished downloads of processes that were killed."""
        for temporary in self._unfinished():
            name = temporary.name.removeprefix(TEMPORARY_PREFIX).rpartition("-")[0]
            with locked(temporary.with_name(f"{name}{_LOCK}"), wait=False) as abandoned:
                if abandoned:
                    remove(temporary)

    def _fetched(self) -> list[Path]:
        """Paths of shards that were fetched or are being fetched, whether they exist or not."""
        return [lock.with_name(lock.name.removesuffix(_LOCK)) for lock in self.folder.glob(f"*/*.tar{_LOCK}")]

    def _unfinished(self) -> list[Path]:
        """Files of downloads in progress, or of processes that were killed."""
        return [file for path in self._fetched() for file in path.parent.glob(f"{TEMPORARY_PREFIX}{path.name}-*")]

    def request(self, storage: Storage, manifest: Manifest, numbers: Iterable[int]) -> None:
        """Fetch shards in the background, in this order; one that fails is fetched again when it is used."""
        requested = {self.path(manifest, number): number for number in numbers}
        others = {path for path in self._requested if path.parent.name != manifest.dataset_hash[:16]}
        new = [number for path, number in requested.items() if path not in self._requested]
        self._requested = others | set(requested)
        for number in new:
            self._pool.submit(self.fetch, storage, manifest, number)

    def close(self) -> None:
        """Cancel all downloads."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)
