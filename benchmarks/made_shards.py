"""Synthetic shard datasets of clips, made without ffmpeg or Ray."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from pipeline.dataset import INDEX, INDEX_SCHEMA, MANIFEST, Manifest, Shard
from pipeline.record import ShardWriter, frame_names

QUALITY = 90


def _frames(count: int, size: tuple[int, int], generator: np.random.Generator) -> list[bytes]:
    """JPEGs of a drifting, smooth colored scene with grain; about 20 kB each at 340 x 256."""
    width, height = size
    coarse = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((width + 2 * count, height), Image.Resampling.BICUBIC), np.int16)
    scene = scene + generator.integers(-8, 9, scene.shape, dtype=np.int16)
    frames = []
    for number in range(count):
        stream = io.BytesIO()
        pixels = scene[:, 2 * number : 2 * number + width].clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
        frames.append(stream.getvalue())
    return frames


def make_shards(
    folder: Path, clips: int, frames: int = 20, size: tuple[int, int] = (340, 256), per_shard: int = 16, seed: int = 0
) -> Path:
    """Write a dataset of `clips` clips of `frames` frames of `size` (width, height) to `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    rows, shards = [], []
    progress = tqdm(total=clips, desc="making clips", unit="clip", disable=clips < 100)
    for number, first in enumerate(range(0, clips, per_shard)):
        file = f"shard-{number:06d}.tar"
        stream = io.BytesIO()
        writer = ShardWriter(stream)
        for clip in range(first, min(first + per_shard, clips)):
            key = f"clip{clip:06d}"
            contents = list(zip(frame_names(frames), _frames(frames, size, generator), strict=True))
            contents += [("cls", b"0"), ("json", json.dumps({"key": key}).encode())]
            spans = writer.write(key, contents)[:frames]
            frames_at = {"frame_offset": [span.offset for span in spans], "frame_size": [span.size for span in spans]}
            side = {"width": size[0], "height": size[1], "num_frames": frames, "duration_s": frames / 2}
            rows.append({"key": key, "shard": file, "label": 0, "class_name": "c", "source": key, **side, **frames_at})
            progress.update()
        writer.close()
        data = stream.getvalue()
        (folder / file).write_bytes(data)
        samples = min(per_shard, clips - first)
        shards.append(Shard(file=file, samples=samples, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    progress.close()
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / INDEX)
    manifest = Manifest(
        name="made",
        split="train",
        media="clips",
        layout="frames",
        settings={},
        seed=seed,
        samples_per_shard=per_shard,
        inputs=clips,
        samples=clips,
        frames=clips * frames,
        rejects=0,
        classes=["c"],
        source_fingerprint="",
        versions={},
        shards=shards,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    return folder
