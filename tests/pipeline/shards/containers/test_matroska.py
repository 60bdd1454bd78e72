from pathlib import Path

import pytest

from pipeline.shards.containers.completeness import Statement
from pipeline.shards.frames import FrameSettings, extract_frames
from pipeline.shards.rejects import Reason, Rejected
from tests.pipeline.shards.containers.cuts import fault, statement, write


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write(tmp_path / "clip.mkv", "-c:v", "mpeg4")
    return tmp_path / "clip.mkv"


def test_a_cut_clip_is_a_reject_and_not_a_short_clip(clip: Path) -> None:
    assert len(extract_frames(clip, FrameSettings()).jpegs) == 20
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) * 6 // 10])
    lost = len(whole) - len(whole) * 6 // 10
    with pytest.raises(Rejected, match=f"its last {lost} bytes are missing; it states {len(whole)}") as rejected:
        extract_frames(clip, FrameSettings())
    assert rejected.value.reason is Reason.DECODE_ERROR


def test_live_recordings_are_not_judged(clip: Path) -> None:
    whole = clip.read_bytes()
    assert fault(whole) == fault(whole + b"more") == ""
    place = whole.index(b"\x18\x53\x80\x67") + 4
    live = whole[:place] + b"\x01" + b"\xff" * 7 + whole[place + 8 :]
    assert statement(live[:5000]) == Statement()
