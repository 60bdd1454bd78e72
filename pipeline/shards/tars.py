"""The files in a tar, and in the tars in it, by where their bytes lie: nothing is unpacked."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from pipeline.settings import UserError
from pipeline.storage import Storage


class _Window(io.RawIOBase):
    """Seekable reading from `start` of a stream, for a tar that lies in another tar."""

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self._stream, self._start, self._place = stream, start, 0

    def read(self, size: int = -1) -> bytes:
        self._stream.seek(self._start + self._place)
        data = self._stream.read(size)
        self._place += len(data)
        return data

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._place = place
        return place

    def tell(self) -> int:
        return self._place


def _entries(stream: BinaryIO, start: int, prefix: str, place: str) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        with tarfile.open(fileobj=_Window(stream, start), mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # tarfile would keep every header in memory
                path = prefix + member.name.removeprefix("./")
                first = start + member.offset_data
                if not member.isfile() or PurePosixPath(path).name.startswith("."):
                    continue
                if path.lower().endswith(".tar"):
                    yield from _entries(stream, first, f"{path[:-4]}/", f"{path} in {place}")
                else:
                    yield path, (first, member.size)
    except tarfile.TarError as error:
        raise UserError(
            f"{place} is damaged or compressed ({error}): only whole, uncompressed tars can be read"
        ) from error


def tar_entries(storage: Storage, name: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path and span (first byte, number of bytes) of every regular file, in the order of the tar.

    The files of an inner `X.tar` have paths `X/...`, as in `ILSVRC2012_img_train.tar`, where they are the classes.

    Raises:
        UserError: the tar or one in it is damaged, cut off or compressed.
    """
    with storage.open(name) as stream:
        yield from _entries(stream, 0, "", f"{storage}/{name}")
