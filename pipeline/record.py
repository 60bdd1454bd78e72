"""The record format: one sample as tar members, one shard as a tar file with byte-stable headers."""

import hashlib
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

TRIPLET_NAMES = ("past.jpg", "current.jpg", "future.jpg")
"""Extensions of the frames of a triplet."""
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Sample:
    """A clip, an image or a triplet, ready to be written."""

    key: str
    source: str
    label: int
    class_name: str
    size: tuple[int, int]
    """Width and height of every frame in pixels."""
    frames: list[tuple[str, bytes]]
    """Extension below the key, and JPEG."""
    fields: dict[str, Any]
    """Further fields of `KEY.json`."""
    class_member: bool = True
    """Whether there is a `KEY.cls`."""


@dataclass(frozen=True)
class Member:
    """One tar member: its extension below the key, first data byte in the tar, and size in bytes."""

    extension: str
    offset: int
    size: int


def frame_names(count: int) -> list[str]:
    """Extensions of a clip's frames: `00.jpg`, ..., `99.jpg`, `100.jpg`, so every clip has a `00.jpg`."""
    return [f"{i:02d}.jpg" for i in range(count)]


def shuffle_rank(key: str, seed: int) -> bytes:
    """Sort key of a sample in the dataset: a keyed hash, so every subset keeps its order."""
    return hashlib.blake2b(key.encode(), digest_size=16, key=seed.to_bytes(8, "big")).digest()


def members(sample: Sample) -> list[tuple[str, bytes]]:
    """(extension, content) of a sample's members in tar order: frames by time, then cls, then json."""
    facts = {
        "key": sample.key,
        "source": sample.source,
        "class_name": sample.class_name,
        "label": sample.label,
        "width": sample.size[0],
        "height": sample.size[1],
        **sample.fields,
    }
    label = [("cls", str(sample.label).encode())] if sample.class_member else []
    return [*sample.frames, *label, ("json", json.dumps(facts, sort_keys=True).encode())]


class ShardWriter:
    """Write samples to an open tar stream; the bytes depend on the samples alone (mtime 0, no owner)."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, key: str, contents: list[tuple[str, bytes]]) -> list[Member]:
        """Append the (extension, content) members of a sample; returns them with their offsets."""
        written = []
        for extension, content in contents:
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(content)
            self._stream.write(info.tobuf(tarfile.GNU_FORMAT))
            written.append(Member(extension, self._stream.tell(), len(content)))
            self._stream.write(content + bytes(-len(content) % _BLOCK))
        return written

    @property
    def position(self) -> int:
        """Number of bytes so far."""
        return self._stream.tell()

    def truncate(self, position: int) -> None:
        """Take back all samples after a position."""
        self._stream.seek(position)
        self._stream.truncate()

    def close(self) -> None:
        """Write the two empty blocks that end a tar."""
        self._stream.write(bytes(2 * _BLOCK))


def dali_index_file(shard: str) -> str:
    """Name of DALI's index file of the shard file `shard`."""
    return f"{shard.removesuffix('.tar')}.idx"


def dali_index(samples: Iterable[tuple[str, list[Member]]]) -> str:
    """The index file of DALI's own WebDataset reader (format v1.2) for (key, members) of each sample."""
    lines = [" ".join(f"{m.extension} {m.offset} {m.size} {key}.{m.extension}" for m in ms) for key, ms in samples]
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


def header_bytes(name: str) -> int:
    """Bytes before the data of a tar member: its header, and for long names more blocks."""
    return len(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
