"""Segments of a made recording of ten minutes with a number in each picture, decoded once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.shards.ffmpeg import run_ffmpeg
from pipeline.shards.frames import extract_frames, open_clip
from pipeline.shards.rejects import Rejected
from pipeline.shards.segment_frames import (
    LEFT_OUT,
    Approach,
    Extract,
    LeftOut,
    Loss,
    Rules,
    StartOver,
    extract_segments,
)
from pipeline.shards.segments import Cut
from pipeline.spec import ClipSettings, FrameSettings, Reason
from tests.media import recorded_number, write_recording

FPS = 4
CUTS = (150, 163, 700, 1111, 2001)
COUNT = 600 * FPS - 1


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording") / "a.mkv", COUNT, CUTS, fps=FPS)


def steps(path: Path, *cuts: Cut, frames: FrameSettings | None = None, **clips: object) -> Iterator[object]:
    """What is extracted from a file, with the approach that it needs."""
    rules, approach = Rules(frames or FrameSettings(), ClipSettings.model_validate(clips)), Approach()
    with open_clip(path) as file:
        while True:
            try:
                yield from list(extract_segments(file, cuts, rules, approach))
                return
            except StartOver as error:
                approach = error.approach


def by_name(path: Path, *cuts: Cut, **options: object) -> tuple[dict[str, Extract], list[Loss], int]:
    """Extracts by name, losses, and the number of pieces that are left out."""
    extracts, losses, left_out = {}, [], 0
    for step in steps(path, *cuts, **options):  # type: ignore[arg-type]
        if isinstance(step, Extract):
            assert step.name not in extracts
            extracts[step.name] = step
        elif isinstance(step, Loss):
            losses.append(step)
        else:
            assert step == LeftOut(LEFT_OUT)
            left_out += 1
    return extracts, losses, left_out


def check_numbers(extract: Extract, fps: float = 2.0, every: int = 1) -> list[int]:
    """Check that each frame shows the picture on display at its time, and return their numbers."""
    ms, frames = round(extract.start_s * 1000), range(0, len(extract.jpegs), every)
    expected = [int((ms + k * 1000 / fps) * FPS // 1000) for k in frames]
    assert [recorded_number(extract.jpegs[k]) for k in frames] == expected, extract.name
    assert [extract.times_s[k] for k in frames] == pytest.approx([n / FPS - ms / 1000 for n in expected], abs=1e-6)
    return expected


def test_windows_show_the_exact_frames(recording: Path) -> None:
    extracts, losses, left_out = by_name(recording, length=10)
    assert list(extracts) == [f"{number:06d}" for number in range(60)]
    assert (losses, left_out) == ([], 0)
    assert {number: len(e.jpegs) for number, e in extracts.items()} == dict.fromkeys(extracts, 20)
    assert [(e.start_s, e.end_s) for e in extracts.values()] == [(10.0 * i, 10.0 * i + 10) for i in range(60)]
    for extract in extracts.values():
        check_numbers(extract, every=7)
    whole = extract_frames(recording, FrameSettings())
    assert [jpeg for extract in extracts.values() for jpeg in extract.jpegs] == whole.jpegs


@pytest.mark.parametrize(
    ("length", "stride", "fps", "last"),
    [
        (10, 130, 2, 4),  # with gaps
        (90, 60, 1, 9),  # overlapping, the last one shorter
        (20, 55.1, 2.5, 10),  # windows begin between the frames of others
    ],
)
def test_windows_with_a_stride(recording: Path, length: float, stride: float, fps: float, last: int) -> None:
    extracts, losses, left_out = by_name(recording, frames=FrameSettings(fps=fps), length=length, stride=stride)
    assert list(extracts) == [f"{number:06d}" for number in range(last + 1)]
    assert (losses, left_out) == ([], 0)
    for number, extract in enumerate(extracts.values()):
        assert extract.start_s == pytest.approx(number * stride)
        assert extract.end_s == pytest.approx(min(number * stride + length, 600))
        assert len(extract.jpegs) == round((extract.end_s - extract.start_s) * fps)
        check_numbers(extract, fps, every=5)


def test_the_end_is_left_out_if_it_is_too_short(tmp_path: Path) -> None:
    clip = write_recording(tmp_path / "a.mkv", 13 * FPS, fps=FPS)
    extracts, losses, left_out = by_name(clip, length=10)
    assert (list(extracts), losses, left_out) == (["000000"], [], 1)
    with pytest.raises(Rejected, match=r"^too_short: 26 frames at 2 fps; min_frames is 30$"):
        by_name(clip, frames=FrameSettings(min_frames=30), length=20)


def test_scenes_begin_with_the_first_frame_after_a_cut(recording: Path) -> None:
    extracts, losses, left_out = by_name(recording, scenes=True)
    shown = [check_numbers(extract, every=1) for extract in extracts.values()]
    assert (losses, left_out) == ([], 1), "the scene of 13 pictures is too short"
    step = FPS // 2
    firsts = [0, *(-(-cut // step) * step for cut in CUTS)]
    ends = [*firsts[1:], 1200 * step]
    assert [(n[0], n[-1] + step) for n in shown] == [p for p in zip(firsts, ends, strict=True) if p[1] - p[0] > 15]
    assert next(iter(extracts)) == "0_37500"


def test_windows_in_scenes_have_pictures_of_one_scene(recording: Path) -> None:
    extracts, losses, _ = by_name(recording, scenes=True, length=20, stride=10)
    assert losses == []
    assert len(extracts) > 50
    for extract in extracts.values():
        numbers = check_numbers(extract, every=len(extract.jpegs) - 1)
        assert sum(cut <= numbers[0] for cut in CUTS) == sum(cut <= numbers[-1] for cut in CUTS)


def test_spans_of_a_list(recording: Path) -> None:
    spans = [
        (0, 4001),
        (2003, 9500),
        (2003, 3000),
        (60_250, 70_250),
        (590_000, None),
        (595_000, 620_000),
        (700_000, 800_000),
    ]
    cuts = [Cut(start, end, f"class {number}", number) for number, (start, end) in enumerate(spans)]
    extracts, losses, left_out = by_name(recording, *cuts)
    for extract in extracts.values():
        check_numbers(extract)
    assert {name: (e.start_s, e.end_s, len(e.jpegs), e.cut and e.cut.label) for name, e in extracts.items()} == {
        "0_4001": (0, 4.001, 9, 0),
        "2003_9500": (2.003, 9.5, 15, 1),
        "60250_70250": (60.25, 70.25, 20, 3),
        "590000_end": (590, 600, 20, 4),
        "595000_620000": (595, 600, 10, 5),
    }
    assert left_out == 0
    assert [(loss.name, loss.reason, loss.detail) for loss in losses] == [
        ("2003_3000", Reason.TOO_SHORT, "2 frames at 2 fps; min_frames is 8"),
        ("700000_800000", Reason.TOO_SHORT, "0 frames at 2 fps before the file ends; min_frames is 8"),
    ]


def test_spans_are_cut_further(recording: Path) -> None:
    spans = [Cut(100_100, 125_000, "", -1), Cut(170_000, 180_000, "", -1)]
    extracts, _, left_out = by_name(recording, *spans, length=10)
    assert (list(extracts), left_out) == (["100100_110100", "110100_120100", "120100_125000", "170000_180000"], 0)
    extracts, _, _ = by_name(recording, *spans, scenes=True)  # a cut at 175 s
    assert list(extracts) == ["100100_125000", "170000_175000", "175000_180000"]
    for extract in extracts.values():
        check_numbers(extract)


def test_more_spans_than_fit_into_one_command(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shards.segment_frames._MAX_EXPRESSION", 200)
    cuts = [Cut(5000 * i, 5000 * i + 4000, "", -1) for i in range(8)]
    extracts, losses, _ = by_name(recording, *cuts)
    assert (list(extracts), losses) == ([f"{cut.start_ms}_{cut.end_ms}" for cut in cuts], [])
    for extract in extracts.values():
        check_numbers(extract, every=7)


@pytest.mark.parametrize("container", ["mkv", "mp4", "ts"])
def test_damage_rejects_the_segments_that_need_it(tmp_path: Path, container: str) -> None:
    clip = write_recording(tmp_path / f"a.{container}", 120 * FPS, (200,), fps=FPS)
    intact, _, _ = by_name(clip, length=5)
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 900] = bytes(900)
    clip.write_bytes(data)
    extracts, losses, _ = by_name(clip, length=5)
    assert by_name(clip, length=5) == (extracts, losses, 0), "the same in every run"
    assert 2 <= len(losses) < 8
    assert sorted([*extracts, *(loss.name for loss in losses)]) == list(intact)
    assert extracts == {name: intact[name] for name in extracts}
    assert {loss.reason for loss in losses} == {Reason.DECODE_ERROR}
    assert all(loss.detail.startswith("damaged from ") for loss in losses)
    assert [(loss.start_s, loss.end_s) for loss in losses] == [
        (intact[x.name].start_s, intact[x.name].end_s) for x in losses
    ]


def test_a_file_that_is_cut_off_loses_what_is_beyond(tmp_path: Path) -> None:
    clip = write_recording(tmp_path / "a.mp4", 60 * FPS, (), "-movflags", "faststart", fps=FPS)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    extracts, losses, _ = by_name(clip, length=5)
    names = [*extracts, *(loss.name for loss in losses)]
    assert names == [f"{number:06d}" for number in range(12)], "the file states how long it is"
    assert 3 <= len(extracts) <= 6
    assert "the file is cut off" in losses[-1].detail


def test_a_change_of_the_format_ends_what_can_be_used(tmp_path: Path) -> None:
    parts = [
        write_recording(tmp_path / f"{i}.ts", 30 * FPS, (), "-vf", f"scale={size}", fps=FPS)
        for i, size in enumerate(("96:64", "48:32"))
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    extracts, losses, _ = by_name(tmp_path / "both.ts", length=8)
    assert list(extracts) == ["000000", "000001", "000002"]
    assert [(x.start_s, x.reason, x.detail) for x in losses][:1] == [
        (24.0, Reason.DECODE_ERROR, "the size or format of the pictures changes")
    ]


def test_times_that_jump_end_what_can_be_used(tmp_path: Path) -> None:
    clip = write_recording(tmp_path / "a.mkv", 20 * FPS, (), "-vf", "setpts=PTS+gt(N\\,49)*3000/TB", fps=FPS)
    extracts, losses, _ = by_name(clip, length=5)
    assert list(extracts) == ["000000", "000001"]
    assert losses[0].detail == "the times of its pictures jump from 12.250 s to 3012.500 s"


def test_a_file_without_pictures_is_rejected(tmp_path: Path) -> None:
    run_ffmpeg(["-f", "lavfi", "-i", "sine=d=1", f"file:{tmp_path / 'sound.mp4'}"], 30)
    with pytest.raises(Rejected, match="not_media: no video stream"):
        by_name(tmp_path / "sound.mp4", length=10)


def test_each_minute_has_the_deadline(tmp_path: Path) -> None:
    clip = write_recording(tmp_path / "a.mkv", 20 * FPS, fps=FPS)
    _, losses, _ = by_name(clip, frames=FrameSettings(deadline_s=0.001), length=5)
    assert [(x.start_s, x.end_s, x.reason, x.detail) for x in losses] == [
        (0, None, Reason.TIMEOUT, "no progress in 0.001 s")
    ]
