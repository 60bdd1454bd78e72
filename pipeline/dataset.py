"""A finished shard dataset on disk: its manifest, its index, and random access to every frame."""

import hashlib
import json
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.reading import reading
from pipeline.settings import UserError
from pipeline.shared import SharedTable, as_numpy, only_chunk
from pipeline.spec import Keys
from pipeline.storage import Storage, is_remote, open_storage

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "dataset.json"
PARTS = ".parts"
"""Folder inside the dataset that exists until the job is done."""
JOB = f"{PARTS}/job.json"
"""What an unfinished job does: written when it begins, the first of its files to be removed when it is done."""
INDEX = "index.parquet"
REJECTS = "rejects.parquet"
MAX_OPEN_SHARDS = 256
"""Limit of files that a dataset keeps open."""

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
        ("parent", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
"""One row per sample in shard order; `frame_offset` counts bytes from the start of the shard file.

`parent` is the key of the file of which the sample is the segment from `start_s` to `end_s`; null if it is all of it.
"""

_COLUMNS = ["key", "source", "label", "num_frames", "frame_offset", "frame_size", "width", "height", "duration_s"]
"""Columns of the index that are kept in memory."""

REJECTS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
"""One row per input, or segment of an input, that is not in a shard.

`start_s` is null for a whole input, `end_s` also for all that follows `start_s`.
"""
_LATER = frozenset(["parent", "start_s", "end_s"])
"""Columns that tables of earlier versions lack; they stand for null."""


def fits(found: pa.Schema, schema: pa.Schema) -> bool:
    """Whether a table has the columns of `schema`, or those of an earlier version."""
    kept = [field for field in schema if field.name in found.names or field.name not in _LATER]
    return bool(found.equals(pa.schema(kept)))


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table that fits `schema`, with all of its columns."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.replace_schema_metadata(None).cast(schema)


class Shard(BaseModel):
    """One shard file as the manifest lists it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str
    samples: int
    bytes: int
    sha256: str


class Batch(BaseModel):
    """Inputs that were appended to a dataset by one command."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    first_shard: int
    """Number of the first shard."""
    shards: int
    """Number of shards, with those that got no sample."""
    inputs: int
    samples_per_shard: int
    source_fingerprint: str
    """Hex SHA-256 over path, key and class of every input of the batch."""


class Manifest(BaseModel):
    """The content of `dataset.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format_version: Literal[1] = 1
    name: str
    split: str
    media: Literal["clips", "images"]
    layout: Literal["frames", "triplets"]
    settings: dict[str, Any]
    """Frame or image settings that the bytes depend on."""
    seed: int
    samples_per_shard: int
    keys: Keys = "stem"
    """Datasets of earlier versions do not record it."""
    inputs: int
    samples: int
    frames: int
    rejects: int
    classes: list[str]
    """Class name of each label."""
    source_fingerprint: str
    """Hex SHA-256 over path, key and class of every input, without appended ones."""
    versions: dict[str, str]
    appended: list[Batch] = []
    removed: list[str] = []
    """Names of removed inputs, as they were given."""
    tables: dict[str, str] = {}
    """Hex SHA-256 of the index and of the rejects, by file name."""
    shards: list[Shard]

    def to_json(self) -> bytes:
        """The content of `dataset.json`; a dataset that was neither appended to nor pruned has no fields about it."""
        unused = {name for name in ("appended", "removed") if not getattr(self, name)}
        return self.model_dump_json(indent=2, exclude=unused).encode() + b"\n"

    @property
    def is_cut(self) -> bool:
        """Whether files were cut into segments, which are the samples."""
        return "clips" in self.settings

    @property
    def candidates(self) -> int:
        """Number of clips or images that became samples or rejects: the inputs, or segments if files were cut."""
        if not self.is_cut:
            return self.inputs
        return self.rejects + self.samples // (
            self.settings["triplets"]["per_clip"] if self.layout == "triplets" else 1
        )

    @property
    def dataset_hash(self) -> str:
        """Hex SHA-256 that names the content: equal exactly when all shards are equal."""
        return hashlib.sha256(json.dumps([(s.file, s.sha256) for s in self.shards]).encode()).hexdigest()


def repair_hint(uri: object) -> str:
    """What to run if the dataset at a path or URI has a fault."""
    return f"Run `python -m pipeline.verify {uri}`, which names every fault"


def parse_manifest(content: bytes, name: str) -> Manifest:
    """Parse the bytes of a `dataset.json`, which errors call `name`.

    Raises:
        UserError: it is damaged, or of another format version.
    """
    try:
        fields = json.loads(content)
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{name} has format version {version}; this program reads {FORMAT_VERSION}: "
                "write the shards again with `make shards`"
            )
        return Manifest.model_validate(fields)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} is damaged ({type(error).__name__}); write the shards again with `make shards`"
        ) from error


def read_manifest(dataset: str | Path | Storage) -> Manifest:
    """Read the manifest of the dataset at a path or URI, or in an open folder.

    Raises:
        UserError: there is no finished dataset, or it is of another format version.
    """
    storage = dataset if isinstance(dataset, Storage) else open_storage(str(dataset))
    try:
        if storage.size(MANIFEST) is None:
            raise UserError(f"{storage} holds no finished shard dataset (no {MANIFEST}); make one with `make shards`")
        return parse_manifest(storage.read(MANIFEST), f"{storage}/{MANIFEST}")
    except OSError as error:
        raise UserError(f"cannot read {storage}/{MANIFEST}: {error}") from error


def clips_by_frames(storage: Storage, manifest: Manifest) -> dict[int, int]:
    """Number of clips by frame count, read from the index in bounded memory; in layout `triplets`, of whole clips.

    Raises:
        OSError, pyarrow.ArrowException: the index cannot be read.
    """
    counts = Counter[int]()
    triplets = manifest.layout == "triplets"
    with storage.parquet(INDEX) as file:
        for rows in file.iter_batches(columns=["num_frames", "duration_s"]):
            frames = rows["num_frames"].to_numpy()
            if triplets:
                frames = np.rint(rows["duration_s"].to_numpy() * manifest.settings["frames"]["fps"]).astype(np.int64)
            counts.update(frames.tolist())
    per_clip = manifest.settings["triplets"]["per_clip"] if triplets else 1
    return {frames: rows // per_clip for frames, rows in sorted(counts.items())}


_MANIFEST_FIELD = b"manifest"
"""Metadata of the shared index."""


class _OpenShard(NamedTuple):
    descriptor: int
    identity: tuple[int, ...]


def _identity(descriptor: int) -> tuple[int, ...]:
    """Values that change if a file is replaced, truncated or written to."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _checked_index(table: pa.Table, manifest: Manifest, name: str) -> pa.Table:
    """The columns of the index that a reader needs, in one piece, with the number of each row's shard for its file.

    Raises:
        ValueError: a row names a shard that the manifest does not have, or a frame beyond its end.
    """
    columns: dict[str, pa.Array] = {}
    for column in table.column_names:
        columns[column] = table[column].unify_dictionaries().combine_chunks()
        table = table.drop_columns(column)  # or all of them would be in memory twice
    encoded = columns.pop("shard")
    number = {shard.file: i for i, shard in enumerate(manifest.shards)}
    files = encoded.dictionary.to_pylist()
    if unknown := [file for file in files if file not in number]:
        raise ValueError(f"{name} names the shard {unknown[0]}, which {MANIFEST} does not")
    shard = np.array([number[file] for file in files], np.int32)[as_numpy(encoded.indices)]
    offset, size = columns["frame_offset"], columns["frame_size"]
    first = np.concatenate([[0], np.cumsum(as_numpy(columns["num_frames"]), dtype=np.int64)])
    if not all(np.array_equal(as_numpy(spans.offsets), first) for spans in (offset, size)):
        raise ValueError(f"{name} does not give an offset for every frame")
    if len(shard):
        limit = np.array([entry.bytes for entry in manifest.shards])[np.repeat(shard, np.diff(first))]
        if (as_numpy(offset.values) + as_numpy(size.values) > limit).any():
            raise ValueError(f"{name} has a frame beyond the end of its shard")
    return pa.table({**columns, "shard_number": pa.array(shard)})


class ShardDataset:
    """Random access to the frames of a finished dataset through `index.parquet`.

    The index takes 12 bytes per frame and about 100 per sample, once for all processes: a pickled dataset is a
    reference of a few hundred bytes to it, and a forked or spawned worker maps the same memory. Where it is unpickled
    on another machine, it is opened anew. Frames are read with `pread`, which reports a truncated file; a memory map
    would end the process (SIGBUS). If a shard is replaced by renaming, the old file is still read; if it is changed in
    place, reading it is an error. Methods may be called from several threads.
    """

    def __init__(self, folder: str | Path, fetch: Callable[[Manifest, int], Path] | None = None) -> None:
        """Open the dataset in a folder or at a URI; frames of the latter need `fetch`, which downloads single shards.

        Raises:
            UserError: it is unfinished, its index does not fit its manifest, or a shard is missing or of another size.
        """
        self.folder = str(folder)
        self._fetch = fetch
        storage = open_storage(self.folder)
        manifest = read_manifest(storage)
        name = f"{self.folder}/{INDEX}"
        with reading(name, "a Parquet file", self.repair_hint), storage.local(INDEX) as path:
            is_index = fits(pq.read_schema(path), INDEX_SCHEMA)
            columns = ["shard", *_COLUMNS] if is_index else []
            table = pq.read_table(path, columns=columns, memory_map=False, read_dictionary=["shard"])
        if not is_index or table.num_rows != manifest.samples:
            raise UserError(f"{name} does not fit {MANIFEST}. {self.repair_hint}")
        try:
            index = _checked_index(table, manifest, name)
        except ValueError as error:
            raise UserError(f"{error}. {self.repair_hint}") from error
        self._use(SharedTable(index.replace_schema_metadata({_MANIFEST_FIELD: manifest.model_dump_json()})))
        del table, index
        pa.default_memory_pool().release_unused()
        if not is_remote(self.folder):  # a request for each of thousands of shards would take minutes
            for shard in self.manifest.shards:
                self._check_size(shard, storage.size(shard.file))

    def _use(self, index: SharedTable) -> None:
        """Take the columns of an index as arrays, without a copy."""
        self._index = index
        table = index.table
        self.manifest = Manifest.model_validate_json(table.schema.metadata[_MANIFEST_FIELD])

        def array(column: str) -> np.ndarray:
            return as_numpy(only_chunk(table[column]))

        offset, size = (only_chunk(table[column]) for column in ("frame_offset", "frame_size"))
        self._first_frame = as_numpy(offset.offsets)
        self._offset, self._size = as_numpy(offset.values), as_numpy(size.values)
        self.shard: np.ndarray = array("shard_number")
        self.num_frames: np.ndarray = array("num_frames")
        self.width: np.ndarray = array("width")
        self.height: np.ndarray = array("height")
        self.label: np.ndarray = array("label")
        self.duration_s: np.ndarray = array("duration_s")
        self.keys: pa.ChunkedArray = table["key"]
        self.sources: pa.ChunkedArray = table["source"]
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._identities: dict[int, tuple[int, ...]] = {}
        self._new_lock()

    def _new_lock(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def _locked(self) -> threading.Lock:
        """The lock of the open files; in a forked process a new one, as a thread of its parent may hold the old one."""
        if self._process != os.getpid():
            self._new_lock()
        return self._lock

    def __getstate__(self) -> tuple[object, ...]:
        return self.folder, self._fetch, self._index.reference, self.manifest.dataset_hash

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        folder, fetch, reference, dataset_hash = state
        index = SharedTable.attach(reference)
        if index is None:
            self.__init__(folder, fetch)  # type: ignore[misc]
        else:
            self.folder, self._fetch = folder, fetch
            self._use(index)
        if self.manifest.dataset_hash != dataset_hash:
            raise UserError(f"{folder} is another dataset than when it was opened before: open it again")

    @property
    def repair_hint(self) -> str:
        """What to run if this dataset has a fault."""
        return repair_hint(self.folder)

    def __len__(self) -> int:
        return len(self.num_frames)

    def _check_size(self, shard: Shard, size: int | None) -> None:
        if size != shard.bytes:
            state = "is missing" if size is None else f"has {size} bytes"
            raise UserError(
                f"shard {self.folder}/{shard.file} {state}; {MANIFEST} says {shard.bytes} bytes. {self.repair_hint}"
            )

    def _opened(self, number: int) -> _OpenShard:
        """The open file of a shard; if too many are open, the least recently opened one is closed."""
        opened = self._open.get(number)
        if opened is not None:
            return opened
        shard = self.manifest.shards[number]
        if self._fetch is None and is_remote(self.folder):
            raise UserError(f"{self.folder} is remote: read its frames with ClipDataset(..., cache=ShardCache(...))")
        try:
            path = Path(self.folder, shard.file) if self._fetch is None else self._fetch(self.manifest, number)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UserError(f"shard {self.folder}/{shard.file} is missing. {self.repair_hint}") from error
        except OSError as error:
            raise UserError(f"cannot open shard {self.folder}/{shard.file}: {error}. {self.repair_hint}") from error
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        opened = _OpenShard(descriptor, _identity(descriptor))
        try:
            self._check_size(shard, opened.identity[2])
            if self._fetch is None and self._identities.setdefault(number, opened.identity) != opened.identity:
                raise UserError(f"shard {path} was replaced while it was in use. {self.repair_hint}")
        except UserError:
            os.close(descriptor)
            raise
        if len(self._open) >= MAX_OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1].descriptor)
        self._open[number] = opened
        return opened

    def _spans(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Shard, first byte and size of each frame."""
        spans = self._first_frame[rows] + frames
        columns = (self.shard[rows], self._offset[spans], self._size[spans])
        return zip(*(column.tolist() for column in columns), strict=True)

    def span(self, row: int, frame: int) -> tuple[int, int]:
        """First byte and size of a frame in its shard."""
        ((_, offset, size),) = self._spans(np.array([row]), np.array([frame]))
        return offset, size

    def frames(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> list[np.ndarray]:
        """JPEG bytes, (size,) uint8 each, of frames (n,) of rows (n,).

        Raises:
            UserError: a shard is missing, became shorter, or changed since it was opened.
        """
        result: list[np.ndarray] = []
        touched: dict[int, int] = {}
        spans = list(self._spans(rows, frames))
        block = np.empty(sum(size for _, _, size in spans), np.uint8)  # faster than an allocation for each frame
        start = 0
        with self._locked():
            for index, (shard, offset, size) in enumerate(spans):
                touched.setdefault(shard, index)
                data = block[start : start + size]
                if os.preadv(self._opened(shard).descriptor, [data.data], offset) < size:
                    raise self._fault(shard, int(rows[index]), f"ends within frame {frames[index]}")
                result.append(data)
                start += size
            for shard, index in touched.items():
                opened = self._open.get(shard)
                if opened is not None and _identity(opened.descriptor) != opened.identity:
                    raise self._fault(shard, int(rows[index]), "changed since it was opened, perhaps at a frame")
        return result

    def _fault(self, shard: int, row: int, state: str) -> UserError:
        file = self.manifest.shards[shard].file
        return UserError(f"shard {self.folder}/{file} {state} of sample {self.keys[row]}. {self.repair_hint}")

    def frame(self, row: int, frame: int) -> np.ndarray:
        """JPEG bytes of one frame as a (size,) uint8 array; raises as `frames`."""
        return self.frames(np.array([row]), np.array([frame]))[0]

    def advise(self, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
        """Ask the kernel to read frames (n,) of rows (n,) ahead of their use; raises as `frames`."""
        with self._locked():
            for shard, offset, size in self._spans(rows, frames):
                os.posix_fadvise(self._opened(shard).descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the shards; they are reopened when needed."""
        with self._locked():
            while self._open:
                os.close(self._open.popitem()[1].descriptor)
