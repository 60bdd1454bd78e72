"""The byte spans of the files in a tar and in the tars inside it, without unpacking."""

import io
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from tqdm import tqdm

from pipeline.paths import path_text
from pipeline.settings import UserError
from pipeline.shards.media import NO_CLASS, class_of, is_hidden
from pipeline.shards.unpacked import Entry, UnpackedFiles
from pipeline.storage import Storage
from pipeline.temporary import temporary_database

_BLOCK = tarfile.BLOCKSIZE
_DEEPEST = 16
"""Depth to which tars in tars are read; links could form a cycle."""
_OF_WEBDATASET = frozenset(["cls", "json", "txt"])
"""Extensions of the files beside the media of a WebDataset sample, as img2dataset and video2dataset write them."""
_MOST_MEMBERS = 10_000
"""Members that the files of one WebDataset sample can be; more with one beginning of the name are of none."""
_MOST_CLASS_BYTES = 1000
_DUMPED_FOLDER = b"D"
"""Type flag of folders in GNU's incremental tars."""


class _Window(io.RawIOBase):
    """Seekable view of `stream` from `start` to `end`, for a tar inside or after another tar."""

    def __init__(self, stream: BinaryIO, start: int, end: int) -> None:
        self._stream, self._start, self._size, self._position = stream, start, end - start, 0

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._stream.seek(self._start + self._position)
        data = self._stream.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


def _end_of_zeros(window: _Window, start: int) -> tuple[int, bytes]:
    """Offset and content of the next block that is not all zeros; the content is empty at the end of the file."""
    window.seek(start)
    while chunk := window.read(_BLOCK * 2048):
        if chunk.strip(b"\0"):
            zeros = (len(chunk) - len(chunk.lstrip(b"\0"))) // _BLOCK * _BLOCK
            return start + zeros, chunk[zeros : zeros + _BLOCK]
        start += len(chunk)
    return start, b""


class _Reader:
    """Reads the headers of a tar and of the tars in it into `files`."""

    def __init__(self, stream: BinaryIO, files: UnpackedFiles, ignored: Counter[str], bar: "tqdm[Any]") -> None:
        self._stream, self._files, self._ignored, self._bar = stream, files, ignored, bar
        self.inner_folders: set[str] = set()
        """Folders that stand for inner tars."""

    def read_all(self, name: str) -> None:
        """Read the tar, then the tars that it contains once all members are known, and so on.

        Raises:
            UserError: one cannot be read; the message calls the outermost `name`.
        """
        self._read(0, self._stream.seek(0, io.SEEK_END), "", name)
        for _ in range(_DEEPEST):
            tars = self._files.take_inner()
            for path, span, fault, _ in tars:
                if span is None:
                    raise UserError(f"{path} in {name} cannot be read: {fault}")
                folder = path[: -len(".tar")]
                self.inner_folders.add(folder)
                self._read(span[0], sum(span), folder, f"{path} in {name}")
            if not tars:
                return
        raise UserError(f"{name} holds tars in tars, more than {_DEEPEST} deep: unpack it")

    def _read(self, start: int, end: int, folder: str, name: str) -> None:
        """Read the tar between two bytes of the stream, and those joined to it, as files of `folder`."""
        if start == end:
            raise UserError(f"{name} is empty: only whole, uncompressed tars can be read")
        first = start
        try:
            while start < end:
                start += self._read_one(start, end, folder)
        except tarfile.TarError as error:
            what = str(error) if start == first else f"after the end mark at byte {start - first}: {error}"
            raise UserError(
                f"{name} is damaged or compressed ({what}): only whole, uncompressed tars can be read"
            ) from error

    def _read_one(self, start: int, end: int, folder: str) -> int:
        """Read the members up to an end mark; returns the number of bytes up to the next tar, or the end."""
        window = _Window(self._stream, start, end)
        with tarfile.open(fileobj=window, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # tarfile would keep every header in memory
                self._bar.update()
                self._member(member, start, folder)
            ended = tar.offset
        behind, block = _end_of_zeros(window, ended)
        if behind == ended:
            what = "invalid header" if len(block) == _BLOCK else "cut off, there is no end mark"
            raise tarfile.ReadError(f"{what} at byte {ended}")
        return behind

    def _name(self, member: tarfile.TarInfo, first: int) -> str:
        """The name of a member, where tarfile mistakes the times in GNU's own headers for a prefix of it."""
        self._stream.seek(first - _BLOCK)
        header = self._stream.read(_BLOCK)
        short, prefix = (path_text(header[a:b].partition(b"\0")[0]) for a, b in ((0, 100), (345, 500)))
        joined = header[257:265] == tarfile.GNU_MAGIC and prefix and member.name == f"{prefix}/{short}".rstrip("/")
        return short.rstrip("/") if joined else member.name

    def _member(self, member: tarfile.TarInfo, start: int, folder: str) -> None:
        first = start + member.offset_data
        name = member.name if member.issparse() else self._name(member, first)
        name = name.lstrip("/") if folder else name
        path = str(PurePosixPath(folder, name))
        inner = path.lower().endswith(".tar") and not is_hidden(path)
        if member.issparse():
            fault = "it is stored with holes (tar --sparse); unpack the tar to read it"
            self._files.add(path, None, inner=inner, fault=fault)
        elif member.isfile():
            self._files.add(path, (first, member.size), inner=inner)
        elif member.islnk():
            self._files.add_hard_link(path, posixpath.join(folder, member.linkname.lstrip("/")), inner=inner)
        elif member.issym():
            target = posixpath.join(folder, posixpath.dirname(name), member.linkname)
            self._files.add_link(path, target, inner=inner)
        elif member.isdir() or member.type == _DUMPED_FOLDER:
            self._files.add_folder(path)
        else:
            self._ignored["devices and other special files"] += 1


def tar_in_path(path: str) -> str:
    """The tar in the path of an input in a folder of tars: its first part that ends in .tar."""
    return path[: path.lower().index(".tar/") + len(".tar")]


def _sample(path: str) -> tuple[str, str]:
    """Folder and key of the WebDataset sample to which a member belongs: its name up to the first dot."""
    folder, _, name = path.rpartition("/")
    return folder, name.partition(".")[0]


def _with_classes(members: list[Entry], stream: BinaryIO, inner_folders: set[str]) -> Iterator[Entry]:
    """Members that may be of one WebDataset sample, with its class if they are."""
    beside = {entry.path.rpartition(".")[2].lower(): entry for entry in members}
    if len(members) < 2 or beside.keys().isdisjoint(_OF_WEBDATASET) or not _sample(members[0].path)[1]:
        yield from members
        return
    if span := beside.get("cls", Entry("")).span:
        stream.seek(span[0])
        text = stream.read(min(span[1], _MOST_CLASS_BYTES)).decode(errors="replace").strip()
        class_name = NO_CLASS if text == "-1" else text
    else:
        path = members[0].path
        outer = next((folder for folder in map(str, PurePosixPath(path).parents) if folder in inner_folders), "")
        class_name = class_of(path[len(outer) :].lstrip("/") if outer else path)
    yield from (entry._replace(class_name=class_name) for entry in members)


def tar_entries(storage: Storage, name: str, ignored: Counter[str]) -> Iterator[Entry]:
    """Yield every file of a tar, in any order; links are resolved to the file or folder in the tar that they point to.

    The files of an inner `X.tar` have paths `X/...`, as in `ILSVRC2012_img_train.tar`, where X is the class. Of members
    with the same name the last counts, as when the tar is unpacked, but inner tars of one name are merged. Concatenated
    tars are read one after the other. Other members than files are counted in `ignored`.

    A file `KEY.*` beside which lies `KEY.cls`, `KEY.json` or `KEY.txt` is of a WebDataset: its class is the text of
    `KEY.cls`, without one the first folder in its own tar.

    Raises:
        UserError: the tar or one in it is damaged, cut off or compressed.
    """
    with (
        temporary_database() as database,
        storage.open(name) as stream,
        tqdm(desc=f"reading {name}", unit=" members", delay=3) as bar,
    ):
        files = UnpackedFiles(database)
        reader = _Reader(stream, files, ignored, bar)
        reader.read_all(f"{storage}/{name}")
        if replaced := files.replaced():
            ignored["members that a later one of the same name replaces"] += replaced
        for _, members in groupby(files.entries(ignored), key=lambda entry: _sample(entry.path)):
            sample = list(islice(members, _MOST_MEMBERS))
            yield from _with_classes(sample, stream, reader.inner_folders) if len(sample) < _MOST_MEMBERS else sample
            yield from members  # noqa: B031 - the rest, after islice
