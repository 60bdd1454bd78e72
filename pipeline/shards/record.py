"""The record format: one sample as tar members, one shard as a tar file with byte-stable headers."""

import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Sample:
    """A clip (several frames) or an image (one), ready to be written."""

    key: str
    source: str
    label: int
    class_name: str
    jpegs: list[bytes]
    is_clip: bool
    size: tuple[int, int]
    """Width and height of every frame in pixels."""
    fields: dict[str, Any]
    """What else `KEY.json` says."""


@dataclass(frozen=True)
class Member:
    """One tar member: its extension below the key, first data byte in the tar, and size in bytes."""

    extension: str
    offset: int
    size: int


def members(sample: Sample) -> list[tuple[str, bytes]]:
    """(extension, content) of a sample's members in tar order: frames by time, then cls, then json.

    A clip's frames are `00.jpg`, `01.jpg`, ..., `99.jpg`, `100.jpg`, ..., so every clip has a `00.jpg`; an image's is
    `jpg`.
    """
    names = [f"{i:02d}.jpg" for i in range(len(sample.jpegs))] if sample.is_clip else ["jpg"]
    facts = {
        "key": sample.key,
        "source": sample.source,
        "class_name": sample.class_name,
        "label": sample.label,
        "width": sample.size[0],
        "height": sample.size[1],
        **sample.fields,
    }
    return [
        *zip(names, sample.jpegs, strict=True),
        ("cls", str(sample.label).encode()),
        ("json", json.dumps(facts, sort_keys=True).encode()),
    ]


class ShardWriter:
    """Write samples to an open tar stream; the bytes depend on the samples alone (mtime 0, no owner)."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, sample: Sample) -> list[Member]:
        """Append `sample`; returns where its members lie."""
        written = []
        for extension, content in members(sample):
            info = tarfile.TarInfo(f"{sample.key}.{extension}")
            info.size = len(content)
            self._stream.write(info.tobuf(tarfile.GNU_FORMAT))
            written.append(Member(extension, self._stream.tell(), len(content)))
            self._stream.write(content + bytes(-len(content) % _BLOCK))
        return written

    def close(self) -> None:
        """Write the two empty blocks that end a tar."""
        self._stream.write(bytes(2 * _BLOCK))


def write_dali_index(path: Path, samples: Iterable[tuple[str, list[Member]]]) -> None:
    """Write the index file of DALI's own WebDataset reader (format v1.2) for (key, members) of each sample."""
    lines = [" ".join(f"{m.extension} {m.offset} {m.size} {key}.{m.extension}" for m in ms) for key, ms in samples]
    path.write_text("\n".join([f"v1.2 {len(lines)}", *lines]) + "\n")
