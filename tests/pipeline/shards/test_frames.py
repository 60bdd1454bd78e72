from pathlib import Path

import numpy as np
import pytest

from pipeline.shards.ffmpeg import run_ffmpeg
from pipeline.shards.frames import FrameSettings, extract_frames, split_jpegs
from pipeline.shards.rejects import Reason, Rejected
from tests.media import decode, jpeg, picture, write_clip


def test_split_gives_back_what_was_joined() -> None:
    jpegs = [jpeg(picture(32, 48, seed)) for seed in range(3)]
    assert split_jpegs(b"".join(jpegs)) == jpegs
    assert split_jpegs(jpegs[0]) == jpegs[:1]
    assert split_jpegs(b"") == []


def test_frames_are_what_is_on_display_at_constant_steps(tmp_path: Path) -> None:
    write_clip(tmp_path / "-clip.mp4", seconds=5.0, seed=0, fps=12)
    frames = extract_frames(tmp_path / "-clip.mp4", FrameSettings())
    assert len(frames) == 10
    levels = np.array([decode(frame).mean() for frame in frames])
    # 12 fps: after k/2 seconds frame 6 k is on display, 200 / 60 levels brighter for each frame
    np.testing.assert_allclose(np.diff(levels), 6 * 200 / 60, atol=1.0)


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 360), (455, 256)), ((360, 640), (256, 455)), ((192, 144), (192, 144))]
)
def test_short_side_shrinks_and_never_enlarges(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    write_clip(tmp_path / "clip.mp4", seconds=1.0, seed=0, size=size)
    (frame, *_) = extract_frames(tmp_path / "clip.mp4", FrameSettings(min_frames=1))
    assert decode(frame).shape[1::-1] == expected


def test_pixels_are_made_square_and_pictures_upright(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", seconds=1.0, seed=0, size=(192, 144))
    source = f"file:{tmp_path / 'clip.mp4'}"
    run_ffmpeg(["-i", source, "-c", "copy", "-aspect", "8:3", f"file:{tmp_path / 'wide.mkv'}"], 30)
    run_ffmpeg(["-display_rotation", "90", "-i", source, "-c", "copy", f"file:{tmp_path / 'turned.mp4'}"], 30)
    settings = FrameSettings(min_frames=1)
    assert decode(extract_frames(tmp_path / "wide.mkv", settings)[0]).shape[:2] == (144, 384)
    assert decode(extract_frames(tmp_path / "turned.mp4", settings)[0]).shape[:2] == (192, 144)


def test_same_bytes_every_time(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", seconds=4.0, seed=3)
    assert extract_frames(tmp_path / "a.mp4", FrameSettings()) == extract_frames(tmp_path / "a.mp4", FrameSettings())


def reject(path: Path, settings: FrameSettings | None = None) -> Rejected:
    with pytest.raises(Rejected) as error:
        extract_frames(path, settings or FrameSettings())
    return error.value


def test_every_fault_has_its_reason(tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", seconds=2.0, seed=0)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<html>")
    whole = (tmp_path / "short.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert reject(tmp_path / "missing.mp4").reason == Reason.UNREADABLE
    assert reject(tmp_path / "empty.mp4").reason == Reason.UNREADABLE
    assert reject(tmp_path / "page.mp4").reason == Reason.DECODE_ERROR
    assert reject(tmp_path / "cut.mp4").reason == Reason.DECODE_ERROR
    assert reject(tmp_path / "short.mp4").reason == Reason.TOO_SHORT
    assert "4 frames at 2 fps; min_frames is 8" in str(reject(tmp_path / "short.mp4"))
    assert reject(tmp_path / "short.mp4", FrameSettings(deadline_s=0.001)).reason == Reason.TIMEOUT


def test_what_ffmpeg_says_is_the_same_in_every_run(tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html>")
    detail = reject(tmp_path / "page.mp4").detail
    assert detail == reject(tmp_path / "page.mp4").detail
    assert "0x" not in detail
    assert str(tmp_path) not in detail
    assert "\n" not in detail


def test_real_broken_clips_are_rejected_and_odd_ones_read(real_data: Path) -> None:
    broken = {
        "corrupted_midstream.mp4",
        "derived_audio_only.mp4",
        "derived_empty.mp4",
        "derived_html.mp4",
        "derived_truncated_faststart.mp4",
        "derived_truncated_no_moov.mp4",
    }
    rejected = {}
    for path in sorted((real_data / "odd" / "videos").iterdir()):
        try:
            extract_frames(path, FrameSettings(min_frames=1))
        except Rejected as error:
            rejected[path.name] = error.detail
    assert set(rejected) == broken
    assert all(rejected.values())
