import random
import time
from pathlib import Path

import pytest

from pipeline.shards.containers.completeness import Statement
from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings
from tests.pipeline.shards.containers.cuts import fault, statement, write

KINDS = {
    "a.mp4": ("-c:v", "mpeg4", "-bf", "2"),
    "fragments.mp4": ("-c:v", "mpeg4", "-movflags", "dash+frag_keyframe+global_sidx"),
    "a.avi": ("-c:v", "mpeg4"),
    "a.flv": ("-c:v", "flv"),
    "a.wmv": ("-c:v", "wmv2"),
    "a.mkv": ("-c:v", "mpeg4"),
}


@pytest.mark.parametrize(
    "content", [b"", b"\0", bytes(100), b"RIFF", b"<html>", b"RIFF\0\0\0\0AVI ", b"FLV\1\5\0\0\0\t"]
)
def test_other_files_state_nothing(content: bytes) -> None:
    assert fault(content) == ""


def test_mpeg_streams_state_nothing(tmp_path: Path) -> None:
    for name in ("a.ts", "a.mpg"):
        assert statement(write(tmp_path / name, "-c:v", "mpeg2video", "-r", "25")) == Statement()


@pytest.mark.parametrize("name", KINDS)
def test_no_content_stops_or_delays_the_readers(tmp_path: Path, name: str) -> None:
    """Bytes of the headers changed at random, and files cut at any byte."""
    whole = write(tmp_path / name, *KINDS[name], sound_s=0)
    draw = random.Random(0)
    offsets = [*range(2000), *range(max(0, len(whole) - 2000), len(whole))]
    started = time.process_time()
    for _ in range(150):
        content = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.2 else whole)
        for _ in range(draw.choice([1, 3, 20])):
            content[min(draw.choice(offsets), len(content) - 1)] = draw.choice([0, 1, 255, draw.randrange(256)])
        fault(bytes(content))
    assert time.process_time() - started < 150 * 0.05


def test_many_boxes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((8).to_bytes(4, "big") + b"free" + (b"\0\0\0\x08free" * 110_000))
    with pytest.raises(Rejected, match=r"decode_error|not_media"):
        extract_frames(tmp_path / "a.mp4", FrameSettings(deadline_s=60))
