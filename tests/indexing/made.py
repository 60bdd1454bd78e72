"""Datasets of many rows made in no time, and features for them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import INDEX, INDEX_SCHEMA, MANIFEST, Manifest, Shard
from tests.media import jpeg, picture


def unit_vectors(rows: int, width: int = 16, seed: int = 0) -> np.ndarray:
    """Float16 unit vectors, as float32."""
    features = np.random.default_rng(seed).normal(size=(rows, width))
    return np.asarray((features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16), np.float32)


COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])


def write_colors(folder: Path, rows: int, name: str) -> Path:
    """A dataset in which each sample has the color of its class, and noise."""
    noise = np.random.default_rng(rows).integers(-40, 41, (rows, 48, 64, 3))
    return write_rows(folder, rows, 3, name, [jpeg((COLORS[n % 3] + noise[n]).astype(np.uint8)) for n in range(rows)])


def write_rows(
    folder: Path, rows: int, classes: int = 3, name: str = "key{:05d}", pictures: Sequence[bytes] = ()
) -> Path:
    """A dataset of one shard in which row i has class i % classes and shows its picture, or all show the same one."""
    folder.mkdir(parents=True)
    shown = list(pictures) or [jpeg(picture(48, 64, seed=0))]
    content = b"".join(shown)
    (folder / "shard-000000.tar").write_bytes(content)
    sizes = [len(one) for one in pictures] or [len(content)] * rows
    offsets = np.cumsum(sizes) - sizes if pictures else np.zeros(rows, np.int64)
    label = np.arange(rows, dtype=np.int32) % classes
    columns = {
        "key": [name.format(row) for row in range(rows)],
        "shard": ["shard-000000.tar"] * rows,
        "label": label,
        "class_name": [f"class {number}" for number in label],
        "num_frames": np.ones(rows, np.int32),
        "frame_offset": [[offset] for offset in offsets.tolist()],
        "frame_size": [[size] for size in sizes],
        "width": np.full(rows, 64, np.int32),
        "height": np.full(rows, 48, np.int32),
        "duration_s": np.zeros(rows),
        "source": [f"{name.format(row)}.jpg" for row in range(rows)],
        **dict.fromkeys(("parent", "start_s", "end_s"), [None] * rows),
    }
    pq.write_table(pa.table(columns, INDEX_SCHEMA), folder / INDEX)
    sha256 = hashlib.sha256(content + name.encode()).hexdigest()
    manifest = Manifest(
        name="shard",
        split="train",
        media="images",
        layout="frames",
        settings={},
        seed=0,
        samples_per_shard=rows,
        inputs=rows,
        samples=rows,
        frames=rows,
        rejects=0,
        classes=[f"class {number}" for number in range(classes)],
        source_fingerprint="",
        versions={},
        shards=[Shard(file="shard-000000.tar", samples=rows, bytes=len(content), sha256=sha256)],
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def write_npy(path: Path, features: np.ndarray) -> Path:
    """A `.npy` file of features."""
    np.save(path, features)
    return path
