"""A finished shard dataset on disk: its manifest, its index, and random access to every frame."""

import hashlib
import json
import mmap
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.settings import UserError

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "dataset.json"
INDEX = "index.parquet"
REJECTS = "rejects.parquet"

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("num_frames", pa.int32()),
        ("frame_offset", pa.list_(pa.int64())),
        ("frame_size", pa.list_(pa.int32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("duration_s", pa.float64()),
        ("source", pa.string()),
    ]
)
"""One row per sample in shard order; `frame_offset` counts bytes from the start of the shard file."""

REJECTS_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class Shard(BaseModel):
    """One shard file as the manifest lists it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str
    samples: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The content of `dataset.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format_version: Literal[1] = 1
    name: str
    split: str
    media: Literal["clips", "images"]
    layout: Literal["frames"]
    settings: dict[str, Any]
    """Frame or image settings that the bytes depend on."""
    seed: int
    samples_per_shard: int
    inputs: int
    samples: int
    frames: int
    rejects: int
    classes: list[str]
    """Class name of each label."""
    source_fingerprint: str
    """Hash over path and size of every input."""
    versions: dict[str, str]
    shards: list[Shard]

    @property
    def dataset_hash(self) -> str:
        """Hex SHA-256 that names the content: equal exactly when all shards are equal."""
        return hashlib.sha256(json.dumps([(s.file, s.sha256) for s in self.shards]).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/dataset.json`.

    Raises:
        UserError: there is no finished dataset, or it is of another format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} holds no finished shard dataset (no {MANIFEST}); make one with `make shards`")
    try:
        content = json.loads(path.read_bytes())
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"{path} has format version {version}; this program reads {FORMAT_VERSION}")
        return Manifest.model_validate(content)
    except (ValueError, AttributeError, ValidationError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}); write the shards again with `make shards`"
        ) from error


class ShardDataset:
    """Random access to the frames of a finished dataset through `index.parquet`.

    Only spans are held in memory: 12 bytes a frame and about 50 a sample. Shards are mapped when first touched.
    """

    def __init__(self, folder: Path) -> None:
        """Open the dataset in `folder`.

        Raises:
            UserError: it is unfinished, its index does not fit its manifest, or a shard is missing or of another size.
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        try:
            table = pq.read_table(folder / INDEX)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {folder / INDEX}: {error}") from error
        if not table.schema.equals(INDEX_SCHEMA) or table.num_rows != self.manifest.samples:
            raise UserError(f"{folder / INDEX} does not fit {MANIFEST}; write the shards again with `make shards`")
        table = table.combine_chunks()
        self.num_frames: np.ndarray = table["num_frames"].to_numpy()
        self._first_frame = np.concatenate([[0], np.cumsum(self.num_frames, dtype=np.int64)])
        self._offset = table["frame_offset"].combine_chunks().values.to_numpy()
        self._size = table["frame_size"].combine_chunks().values.to_numpy()
        self.width: np.ndarray = table["width"].to_numpy()
        self.height: np.ndarray = table["height"].to_numpy()
        self.label: np.ndarray = table["label"].to_numpy()
        self.keys: pa.ChunkedArray = table["key"]
        number = {shard.file: i for i, shard in enumerate(self.manifest.shards)}
        encoded = table["shard"].combine_chunks().dictionary_encode()
        numbers = np.array([number[file] for file in encoded.dictionary.to_pylist()], np.int32)
        self.shard: np.ndarray = numbers[encoded.indices.to_numpy()]
        for shard in self.manifest.shards:
            path = folder / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                state = "is missing" if size is None else f"has {size} bytes"
                raise UserError(f"shard {path} {state}; {MANIFEST} says {shard.bytes} bytes. Run `make shards` again")

    def __len__(self) -> int:
        return len(self.num_frames)

    @cached_property
    def _mapped(self) -> dict[int, memoryview]:
        return {}

    def frame(self, row: int, frame: int) -> np.ndarray:
        """JPEG bytes of one frame as a read-only (size,) uint8 view of the mapped shard."""
        shard = int(self.shard[row])
        view = self._mapped.get(shard)
        if view is None:
            with (self.folder / self.manifest.shards[shard].file).open("rb") as stream:
                view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
            self._mapped[shard] = view
        span = self._first_frame[row] + frame
        return np.frombuffer(view, np.uint8, int(self._size[span]), int(self._offset[span]))
