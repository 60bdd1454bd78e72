"""Shards of remote datasets as files on a local disk, never more than a given number of bytes."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.dataset import Manifest, Shard, repair_hint
from pipeline.files import TEMPORARY_PREFIX, atomic_path, locked, remove
from pipeline.settings import UserError
from pipeline.storage import Storage

DOWNLOADS = 4
"""Shards that one process fetches at a time."""
CHUNK = 1 << 24
"""Bytes of one request to the store."""
_LOCK = ".lock"


def _status(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat()
    return None


class ShardCache:
    """A folder of whole shards, shared by all processes of a machine, in which the least recently used make room.

    A shard that is removed while somebody reads it stays readable until they close it. Only shards that were fetched
    into the folder, each known by the lock file beside it, are counted and removed: it may hold other tars.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Use `folder` for at most `limit` bytes of shards."""
        self.folder, self.limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards")
        self._requested: set[Path] = set()
        self._closed = threading.Event()

    def path(self, manifest: Manifest, number: int) -> Path:
        """Where a shard lies while it is in the cache."""
        return self.folder / manifest.dataset_hash[:16] / manifest.shards[number].file

    def fetch(self, storage: Storage, manifest: Manifest, number: int) -> Path:
        """Local path of a shard, which is downloaded if it is not there.

        Raises:
            UserError: it cannot be read, is not the one that the manifest names, or does not fit into the limit.
        """
        path, shard = self.path(manifest, number), manifest.shards[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}{_LOCK}")):
            status = _status(path)
            if status is not None and status.st_size == shard.bytes:
                with contextlib.suppress(FileNotFoundError):  # another thread or process has just made room
                    # used now; a changed mtime would mean changed bytes
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
                    raise UserError(f"the download of {shard.file} was given up")
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
                f"shard {storage}/{shard.file} is not the one that the manifest names. {repair_hint(storage)}"
            )

    def _reserve(self, temporary: Path, size: int) -> None:
        """Make room for a file of `size` bytes and take it at once, so that no other process does."""
        with locked(self.folder / f"cache{_LOCK}"):
            self._remove_abandoned()
            files = [*self._fetched(), *self._unfinished()]
            result = {path: status for path in files if (status := _status(path))}
            room = self.limit - sum(status.st_size for status in result.values())
            for path, status in sorted(result.items(), key=lambda entry: entry[1].st_atime_ns):
                if room < size and not path.name.startswith(TEMPORARY_PREFIX):
                    remove(path)
                    room += status.st_size
            if room < size:
                raise UserError(
                    f"the shard cache {self.folder} of {self.limit / 1e9:.3g} GB is too small for the shards that are "
                    "fetched at a time: raise data.cache_gb or lower data.order.window"
                )
            with temporary.open("wb") as stream:
                stream.truncate(size)

    def _remove_abandoned(self) -> None:
        """Remove what killed processes left half-written."""
        for temporary in self._unfinished():
            name = temporary.name.removeprefix(TEMPORARY_PREFIX).rpartition("-")[0]
            with locked(temporary.with_name(f"{name}{_LOCK}"), wait=False) as abandoned:
                if abandoned:
                    remove(temporary)

    def _fetched(self) -> list[Path]:
        """Where shards lie that were fetched, or are being fetched."""
        return [lock.with_name(lock.name.removesuffix(_LOCK)) for lock in self.folder.glob(f"*/*.tar{_LOCK}")]

    def _unfinished(self) -> list[Path]:
        """Files that become shards, or that a killed process left."""
        return [file for path in self._fetched() for file in path.parent.glob(f"{TEMPORARY_PREFIX}{path.name}-*")]

    def request(self, storage: Storage, manifest: Manifest, numbers: Iterable[int]) -> None:
        """Fetch shards in the background, in this order; what fails is tried again, and told, when it is read."""
        expected = {self.path(manifest, number): number for number in numbers}
        others = {path for path in self._requested if path.parent.name != manifest.dataset_hash[:16]}
        fresh = [number for path, number in expected.items() if path not in self._requested]
        self._requested = others | set(expected)
        for number in fresh:
            self._pool.submit(self.fetch, storage, manifest, number)

    def close(self) -> None:
        """Give up the downloads in progress and start no other."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)
