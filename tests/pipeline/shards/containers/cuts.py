"""Clips in several containers, and parts of them cut out on the containers' own boundaries."""

import io
from pathlib import Path

from pipeline.shards.containers.completeness import Statement, missing_part
from pipeline.shards.containers.read import read_statement
from pipeline.shards.ffmpeg import run_ffmpeg
from tests.media import numbered

SECONDS = 10
FPS = 12


def write(path: Path, *options: str, sound_s: int = 0) -> bytes:
    """A clip of ten seconds, in fragments of two seconds where `options` ask for some; returns its bytes."""
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "64x48", "-r", str(FPS), "-i", "pipe:"]
    sound = ["-f", "lavfi", "-i", f"sine=d={sound_s}"] if sound_s else []
    picture = numbered(SECONDS * FPS, (64, 48))
    run_ffmpeg(
        [*raw, *sound, "-g", str(2 * FPS), "-sc_threshold", "1000000000", *options, f"file:{path}"], 60, stdin=picture
    )
    return path.read_bytes()


def boxes(movie: bytes) -> list[bytes]:
    """The boxes of a movie one after the other."""
    result, at = [], 0
    while at < len(movie):
        size = int.from_bytes(movie[at : at + 4], "big")
        result.append(movie[at : at + size])
        at += size
    return result


def without_fragments(movie: bytes, lost: set[int], also: tuple[bytes, ...] = ()) -> bytes:
    """A movie without some of its fragments and without boxes of the kinds `also`."""
    kept, fragment = [], -1
    for box in boxes(movie):
        kind = box[4:8]
        fragment += kind == b"moof"
        if not (kind in (b"moof", b"mdat") and fragment in lost) and kind not in also:
            kept.append(box)
    return b"".join(kept)


def statement(content: bytes) -> Statement:
    """What the container states."""
    return read_statement(io.BytesIO(content))


def fault(content: bytes) -> str:
    """What a file with this content lacks, without decoding it."""
    return missing_part(statement(content), len(content))
