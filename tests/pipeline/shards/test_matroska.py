import io
from pathlib import Path

import pytest

from pipeline.shards.ffmpeg import run_ffmpeg
from pipeline.shards.frames import FrameSettings, extract_frames
from pipeline.shards.matroska import missing_bytes
from pipeline.shards.rejects import Reason, Rejected
from tests.media import write_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.mp4", 10.0, seed=0)
    run_ffmpeg(["-i", f"file:{tmp_path}/clip.mp4", "-c", "copy", f"file:{tmp_path}/clip.mkv"], deadline_s=60)
    return tmp_path / "clip.mkv"


def test_a_cut_clip_is_a_reject_and_not_a_short_clip(clip: Path) -> None:
    assert len(extract_frames(clip, FrameSettings()).jpegs) == 20
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) * 6 // 10])
    lost = len(whole) - len(whole) * 6 // 10
    with pytest.raises(Rejected, match=f"the file is cut off: its last {lost} bytes are missing") as rejected:
        extract_frames(clip, FrameSettings())
    assert rejected.value.reason is Reason.DECODE_ERROR


def test_live_recordings_and_other_files_are_not_judged(clip: Path) -> None:
    whole = clip.read_bytes()
    assert missing_bytes(io.BytesIO(whole)) == 0
    assert missing_bytes(io.BytesIO(whole + b"more")) == 0
    place = whole.index(b"\x18\x53\x80\x67") + 4
    live = whole[:place] + b"\x01" + b"\xff" * 7 + whole[place + 8 :]
    assert missing_bytes(io.BytesIO(live[:5000])) == 0
    for other in (b"", b"RIFF", whole[:3], whole[:20], bytes(100), clip.with_suffix(".mp4").read_bytes()):
        assert missing_bytes(io.BytesIO(other)) == 0
