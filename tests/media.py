"""Synthetic clips and images."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A (height, width, 3) uint8 picture of random colored blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return blocks.repeat(16, 0).repeat(16, 1)[:height, :width]


def write_clip(path: Path, seconds: float, seed: int, size: tuple[int, int] = (192, 144), fps: int = 12) -> None:
    """A clip of `size` (width, height) whose brightness encodes the time: frame i has mean level i * 200 / frames."""
    from pipeline.shards.ffmpeg import run_ffmpeg  # not at the top: the GPU's tests run without ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    frames = round(seconds * fps)
    texture = picture(height, width, seed).astype(np.float32) / 255 * 40
    raw = b"".join((texture + 200 * i / frames).astype(np.uint8).tobytes() for i in range(frames))
    arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:"]
    arguments += ["-c:v", "mpeg4", "-q:v", "2", "-y", f"file:{path}"]
    run_ffmpeg(arguments, deadline_s=60, stdin=raw)


def write_image(path: Path, seed: int, size: tuple[int, int] = (160, 120)) -> None:
    """A JPEG of `size` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(picture(size[1], size[0], seed)))


def jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    """JPEG bytes of (height, width, 3) uint8 pixels."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def exif_block(*fields: tuple[int, int, int, int], order: str = "<") -> bytes:
    """An EXIF segment with these (tag, type, count, value) fields, the value a SHORT or, of types 1 and 7, a byte."""
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + struct.pack(order + ("B" if kind in (1, 7) else "H"), value).ljust(4, b"\0")
        for tag, kind, count, value in fields
    )
    tiff = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(fields)) + entries + bytes(4)
    return app1(b"Exif\0\0" + tiff)


def app1(body: bytes) -> bytes:
    """An APP1 segment of a JPEG."""
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments at its start."""
    return data[:2] + b"".join(segments) + data[2:]


def decode(data: bytes | np.ndarray) -> np.ndarray:
    """Pixels (height, width, 3) of JPEG bytes, by Pillow."""
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


BITS = 8


def numbered(count: int, size: tuple[int, int] = (192, 144)) -> bytes:
    """Raw gray pictures of `size` (width, height); picture i shows the number i as `BITS` dark and light bars."""
    width, height = size
    bars = (np.arange(count)[:, None] >> np.arange(BITS) & 1) * 170 + 40
    rows = bars[:, np.arange(width) * BITS // width].astype(np.uint8)
    return rows[:, None, :].repeat(height, 1).tobytes()


def shown_number(data: bytes | np.ndarray) -> int:
    """The number that a frame of a numbered clip shows."""
    row = decode(data).mean((0, 2))
    bars = row[(np.arange(BITS) * 2 + 1) * len(row) // (2 * BITS)]
    return int(((bars > 125) << np.arange(BITS)).sum())


def write_numbered(
    path: Path, count: int, *options: str, fps: int = 12, size: tuple[int, int] = (192, 144), codec: str = "mpeg4"
) -> Path:
    """A clip of `count` numbered pictures; `options` are ffmpeg's output options."""
    from pipeline.shards.ffmpeg import run_ffmpeg

    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{size[0]}x{size[1]}", "-r", str(fps), "-i", "pipe:"]
    encoder = ["-c:v", codec, "-q:v", "2"]
    run_ffmpeg([*raw, *encoder, *options, "-y", f"file:{path}"], deadline_s=60, stdin=numbered(count, size))
    return path


RECORDING_BITS = 12
"""Bars of a recording; each is 8 pixels wide, in a band of 8 pixels."""


def write_recording(path: Path, count: int, cuts: Sequence[int] = (), *options: str, fps: int = 4) -> Path:
    """A long video of `count` pictures of 96 x 64 pixels with their numbers; a scene begins with each of `cuts`."""
    from pipeline.shards.ffmpeg import run_ffmpeg

    numbers = np.arange(count)
    scenes = np.stack([picture(64, 96, seed)[..., 0] for seed in range(len(cuts) + 1)])
    pictures = scenes[np.searchsorted(cuts, numbers, side="right")]
    bars = (numbers[:, None] >> np.arange(RECORDING_BITS) & 1) * 170 + 40
    pictures[:, :8] = bars.astype(np.uint8).repeat(8, 1)[:, None]
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "96x64", "-r", str(fps), "-i", "pipe:"]
    encoder = ["-c:v", "mpeg4", "-q:v", "2", "-g", str(5 * fps), "-sc_threshold", "1000000000"]
    path.parent.mkdir(parents=True, exist_ok=True)
    run_ffmpeg([*raw, *encoder, *options, "-y", f"file:{path}"], deadline_s=60, stdin=pictures.tobytes())
    return path


def recorded_number(data: bytes) -> int:
    """The number that a frame of a recording shows."""
    bars = decode(data)[1:6].mean((0, 2)).reshape(RECORDING_BITS, 8)[:, 2:6].mean(1)
    return int(((bars > 125) << np.arange(RECORDING_BITS)).sum())
