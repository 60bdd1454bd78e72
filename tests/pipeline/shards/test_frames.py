import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.shards.ffmpeg import FfmpegTimeout, run_ffmpeg
from pipeline.shards.frames import (
    Frames,
    StoredJpegs,
    extract_frames,
    ffmpeg_arguments,
    shown_pictures,
    split_jpegs,
)
from pipeline.shards.rejects import Rejected
from pipeline.shards.segments import Clock
from pipeline.spec import FrameSettings, Reason
from tests.media import decode, jpeg, picture, shown_number, write_clip, write_numbered

ANY_LENGTH = FrameSettings(min_frames=1)


def numbers(frames: Frames) -> list[int]:
    return [shown_number(frame) for frame in frames.jpegs]


def size(path: Path, settings: FrameSettings = ANY_LENGTH) -> tuple[int, ...]:
    """(width, height) of the first frame."""
    return decode(extract_frames(path, settings).jpegs[0]).shape[1::-1]


def reject(path: Path, settings: FrameSettings | None = None) -> Rejected:
    with pytest.raises(Rejected) as error:
        extract_frames(path, settings or FrameSettings())
    return error.value


def test_split_gives_back_what_was_joined() -> None:
    jpegs = [jpeg(picture(32, 48, seed)) for seed in range(3)]
    assert split_jpegs(b"".join(jpegs)) == jpegs
    assert split_jpegs(jpegs[0]) == jpegs[:1]
    assert split_jpegs(b"") == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_jpegs_in_a_file_are_those_that_were_joined(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredJpegs, "_CHUNK", chunk)
    jpegs = [jpeg(picture(16, 16, seed)) for seed in range(3)]
    assert [*StoredJpegs(io.BytesIO(b"".join(jpegs)))] == jpegs
    stored = StoredJpegs(io.BytesIO(b"".join(jpegs)))
    assert stored[-1] == jpegs[2]
    assert stored[1:] == jpegs[1:]
    with pytest.raises(IndexError):
        stored[3]
    assert len(StoredJpegs(io.BytesIO())) == 0


@pytest.mark.parametrize("fps", [0.001, 0.3, 2.0, 3.0, 29.97, 24000 / 1001, 1000.0])
def test_clock_ticks_are_whole_and_fine(fps: float) -> None:
    clock = Clock.at(fps)
    assert clock.ticks_per_frame * clock.fps == clock.ticks_per_s
    assert 1_000_000 <= clock.ticks_per_s < 2**31
    assert float(clock.fps) == pytest.approx(fps, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_shown_pictures_follow_the_fps_filter_even_when_time_goes_back(seed: int) -> None:
    """The filter, literally: each picture is repeated until the time of the next."""
    generator = np.random.default_rng(seed)
    pts = 1000 + np.sort(generator.integers(0, 500, 40))
    pts[5:] = generator.permutation(pts[5:]) if seed % 2 else pts[5:]
    replayed: list[int] = []
    for number, after in enumerate(pts[1:]):
        while len(replayed) * 10 < after - pts[0]:
            replayed.append(number)
    replayed += [len(pts) - 1] * 3
    assert shown_pictures(pts, len(replayed), 10, nearest=False).tolist() == replayed


# Times: the number in each picture tells which one is shown, independent of the tested code.


def test_frames_are_what_is_on_display_at_constant_steps(tmp_path: Path) -> None:
    frames = extract_frames(write_numbered(tmp_path / "-clip.mp4", 60), FrameSettings())
    assert numbers(frames) == [6 * k for k in range(10)]
    assert frames.times_s == [k / 2 for k in range(10)]


@pytest.mark.parametrize("fps", [3.0, 5.0, 24000 / 1001])
def test_any_rate(tmp_path: Path, fps: float) -> None:
    frames = extract_frames(write_numbered(tmp_path / "clip.avi", 60), FrameSettings(fps=fps))
    expected = [int(12 * k / fps + 1e-9) for k in range(int(5 * fps) + 1) if k / fps < 5]
    assert numbers(frames) == expected
    np.testing.assert_allclose(frames.times_s, np.array(expected) / 12, atol=1e-6)


def test_variable_rate_with_gaps_and_bursts(tmp_path: Path) -> None:
    # Picture n is shown from n^2 / 100 s: 25 pictures in the second frame's half second, later one for two frames.
    clip = write_numbered(
        tmp_path / "clip.mkv", 40, "-vf", "setpts=N*N*10", "-fps_mode", "passthrough", fps=1000, codec="ffv1"
    )
    frames = extract_frames(clip, FrameSettings())
    shown = numbers(frames)
    assert len(shown) in (31, 32)  # the file does not contain the duration of the last picture
    assert shown == [int(np.sqrt(50 * k) + 1e-9) for k in range(len(shown))]
    np.testing.assert_allclose(frames.times_s, np.array(shown) ** 2 / 100, atol=1e-6)


@pytest.mark.parametrize("offset", ["3.7", "-1.3"])
def test_time_starts_with_the_first_picture(tmp_path: Path, offset: str) -> None:
    shifted = ["-output_ts_offset", offset, "-avoid_negative_ts", "disabled"]
    frames = extract_frames(write_numbered(tmp_path / "clip.mkv", 36, *shifted), ANY_LENGTH)
    assert numbers(frames) == [0, 6, 12, 18, 24, 30]
    np.testing.assert_allclose(frames.times_s, np.arange(6) / 2, atol=0.006)  # Matroska rounds to milliseconds


def test_sound_that_starts_earlier_changes_nothing(tmp_path: Path) -> None:
    clip = write_numbered(tmp_path / "silent.mp4", 36)
    sound = ["-f", "lavfi", "-i", "sine=d=4", "-itsoffset", "0.7", "-i", f"file:{clip}", "-c:v", "copy"]
    run_ffmpeg([*sound, f"file:{tmp_path / 'sound.mp4'}"], 30)
    assert extract_frames(tmp_path / "sound.mp4", ANY_LENGTH) == extract_frames(clip, ANY_LENGTH)


def test_edit_list_hides_what_comes_before(tmp_path: Path) -> None:
    clip = write_numbered(tmp_path / "long.mp4", 60, "-g", "25", "-bf", "2")
    run_ffmpeg(["-ss", "1.0", "-i", f"file:{clip}", "-c", "copy", f"file:{tmp_path / 'edit.mp4'}"], 30)
    frames = extract_frames(tmp_path / "edit.mp4", FrameSettings())
    assert numbers(frames) == [12 + 6 * k for k in range(8)]
    assert frames.times_s == [k / 2 for k in range(8)]


def test_reference_timing_takes_the_nearest_picture_that_others_refer_to(tmp_path: Path) -> None:
    clip = write_numbered(tmp_path / "clip.mp4", 58, "-g", "100", "-bf", "2", "-b_strategy", "0")  # I b b P b b P ...
    frames = extract_frames(clip, FrameSettings(fps=5, timing="reference"))
    assert numbers(frames) == [3 * round(12 * k / 5 / 3) for k in range(len(frames.jpegs))]
    assert len(frames.jpegs) in (24, 25)
    np.testing.assert_allclose(frames.times_s, np.array(numbers(frames)) / 12, atol=1e-6)
    exact = extract_frames(clip, FrameSettings(fps=5))
    assert numbers(exact) == [12 * k // 5 for k in range(len(exact.jpegs))]


# Pictures


@pytest.mark.parametrize(
    ("clip_size", "expected"), [((640, 360), (455, 256)), ((360, 640), (256, 455)), ((192, 144), (192, 144))]
)
def test_short_side_shrinks_and_never_enlarges(
    tmp_path: Path, clip_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    write_clip(tmp_path / "clip.mp4", seconds=1.0, seed=0, size=clip_size)
    assert size(tmp_path / "clip.mp4") == expected


def test_pixels_are_made_square_and_pictures_upright(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", seconds=1.0, seed=0, size=(192, 144))
    source = f"file:{tmp_path / 'clip.mp4'}"
    run_ffmpeg(["-i", source, "-c", "copy", "-aspect", "8:3", f"file:{tmp_path / 'wide.mkv'}"], 30)
    run_ffmpeg(["-display_rotation", "90", "-i", source, "-c", "copy", f"file:{tmp_path / 'turned.mp4'}"], 30)
    assert size(tmp_path / "wide.mkv") == (384, 144)
    (plain, *_), (turned, *_) = (extract_frames(tmp_path / f"{n}.mp4", ANY_LENGTH).jpegs for n in ("clip", "turned"))
    assert np.abs(np.rot90(decode(plain)).astype(int) - decode(turned)).mean() < 3


@pytest.mark.parametrize(
    ("pixels", "matrix", "tags"),
    [
        ("yuv420p", "bt601", ()),
        ("yuv444p", "bt709", ("bt709", "bt709", "bt709")),
        ("yuv422p10le", "bt601", ("smpte170m", "smpte170m", "smpte170m")),
        ("yuv420p10le", "bt2020", ("bt2020nc", "bt2020", "bt2020-10")),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
def test_colors_are_right_for_every_tag_depth_and_odd_size(
    tmp_path: Path, pixels: str, matrix: str, tags: tuple[str, ...], full_range: bool
) -> None:
    colors = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
    raw = colors.repeat(65, 0)[None].repeat(145, 0)
    kind = "pc" if full_range else "tv"
    names = ("-colorspace", "-color_primaries", "-color_trc")
    written = [f"scale=out_color_matrix={matrix}:out_range={kind},format={pixels}", "-color_range", kind]
    written += [word for pair in zip(names, tags, strict=False) for word in pair]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "195x145", "-r", "2", "-i", "pipe:"]
    clip = f"file:{tmp_path / 'clip.mkv'}"
    run_ffmpeg([*source, "-vf", *written, "-c:v", "ffv1", clip], 30, stdin=raw.tobytes())
    frame = decode(extract_frames(tmp_path / "clip.mkv", ANY_LENGTH).jpegs[0])
    assert frame.shape == (145, 195, 3)
    np.testing.assert_allclose(frame[72, [32, 97, 162]].astype(int), colors.astype(int), atol=4)


def test_the_best_of_several_video_streams_is_taken(tmp_path: Path) -> None:
    small = write_numbered(tmp_path / "small.mp4", 24, size=(96, 80))
    large = write_numbered(tmp_path / "large.mp4", 24)
    both = ["-i", f"file:{small}", "-i", f"file:{large}", "-map", "0", "-map", "1", "-c", "copy"]
    run_ffmpeg([*both, f"file:{tmp_path / 'both.mkv'}"], 30)
    assert size(tmp_path / "both.mkv") == (192, 144)


def test_quality_sets_the_size(tmp_path: Path) -> None:
    noise = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "96x80", "-i", "pipe:", "-c:v", "ffv1"]
    run_ffmpeg([*noise, f"file:{tmp_path / 'clip.mkv'}"], 30, stdin=np.random.default_rng(0).bytes(96 * 80))
    fine, coarse = (
        extract_frames(tmp_path / "clip.mkv", FrameSettings(min_frames=1, quality=quality)).jpegs for quality in (2, 31)
    )
    assert len(coarse[0]) < 0.5 * len(fine[0])


def test_same_bytes_every_time_and_on_any_cpu(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", seconds=4.0, seed=3, size=(500, 300))
    frames = extract_frames(tmp_path / "a.mp4", FrameSettings())
    assert frames == extract_frames(tmp_path / "a.mp4", FrameSettings())
    arguments = ffmpeg_arguments(f"file:{tmp_path / 'a.mp4'}", "/dev/null", FrameSettings())
    plainest_cpu = run_ffmpeg(["-cpuflags", "0", *arguments], 60)
    assert split_jpegs(plainest_cpu) == frames.jpegs
    with (tmp_path / "spool").open("w+b") as spool:
        spool.write(b"of an earlier attempt" * 100_000)
        stored = extract_frames(tmp_path / "a.mp4", FrameSettings(), spool)
        assert ([*stored.jpegs], stored.times_s) == (frames.jpegs, frames.times_s)


# Rejects


def test_every_fault_has_its_reason(tmp_path: Path) -> None:
    clip = write_numbered(tmp_path / "short.mp4", 24)
    whole = clip.read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<html>")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(tmp_path / "pipe.mp4")
    run_ffmpeg(["-f", "lavfi", "-i", "sine=d=1", f"file:{tmp_path / 'sound.mp4'}"], 30)
    write_numbered(tmp_path / "dot.avi", 24, size=(8, 40))
    assert str(reject(tmp_path / "missing.mp4")) == "unreadable: No such file or directory"
    assert str(reject(tmp_path / "empty.mp4")) == "unreadable: the file is empty"
    assert str(reject(tmp_path / "pipe.mp4")) == "unreadable: not a regular file"
    assert str(reject(tmp_path)) == "unreadable: Is a directory"
    assert str(reject(tmp_path / "page.mp4")) == "not_media: no supported video container"
    assert str(reject(tmp_path / "sound.mp4")) == "not_media: no video stream"
    assert str(reject(tmp_path / "sound.mp4", FrameSettings(timing="reference"))) == "not_media: no video stream"
    assert str(reject(tmp_path / "cut.mp4")) == "decode_error: moov atom not found"
    assert str(reject(tmp_path / "dot.avi", ANY_LENGTH)) == "too_small: 8 x 40 pixels; a side must have at least 16"
    assert str(reject(clip)) == "too_short: 4 frames at 2 fps; min_frames is 8"
    assert reject(clip, FrameSettings(deadline_s=0.001)).reason == Reason.TIMEOUT
    long = reject(clip, FrameSettings(min_frames=1, max_frames=3))
    assert str(long) == "too_long: more than max_frames = 3 frames at 2 fps"
    large = reject(clip, FrameSettings(max_pixels=20_000))
    assert str(large) == "too_large: more than max_pixels = 20000 pixels"


def test_damage_in_the_middle_is_a_reject_not_a_shorter_clip(tmp_path: Path) -> None:
    clip = write_numbered(tmp_path / "clip.avi", 60)
    damaged = bytearray(clip.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 200] = bytes(200)
    clip.write_bytes(damaged)
    assert reject(clip).reason == Reason.DECODE_ERROR


def test_a_gap_of_days_does_not_fill_the_memory(tmp_path: Path) -> None:
    late = ["-vf", "setpts=N*1e5/TB", "-fps_mode", "passthrough"]
    assert reject(write_numbered(tmp_path / "clip.mkv", 3, *late, codec="ffv1")).reason == Reason.TOO_LONG


def test_change_of_size_within_a_clip_is_a_reject(tmp_path: Path) -> None:
    parts = [
        write_numbered(tmp_path / f"{width}.m2v", 25, "-f", "mpeg2video", fps=25, size=(width, 96), codec="mpeg2video")
        for width in (192, 128)
    ]
    (tmp_path / "clip.mpg").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert str(reject(tmp_path / "clip.mpg", ANY_LENGTH)).endswith(
        "size or format of the pictures changes within the clip"
    )


@pytest.mark.parametrize(
    "name", ["-i.mp4", "%03d.mp4", "a b\nc'\":;[x]*?.mp4", "subfile,,start,0,:x.mp4", b"\xff\xfe.mp4"]
)
def test_any_file_name(tmp_path: Path, name: str | bytes) -> None:
    clip = tmp_path / os.fsdecode(name)
    write_numbered(tmp_path / "plain.mp4", 24).rename(clip)
    assert numbers(extract_frames(clip, ANY_LENGTH)) == [0, 6, 12, 18]
    clip.write_text("<html>")
    assert str(reject(clip)) == "not_media: no supported video container"


# Files that refer to other files or URLs


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file and a URL that must not be opened: opening the file hangs, and the server records its clients."""
    os.mkfifo(tmp_path / "canary.mp4")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield tmp_path / "canary.mp4", f"http://127.0.0.1:{server.getsockname()[1]}/canary.mp4"
        with pytest.raises(BlockingIOError):
            server.accept()


SCRIPTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"><image href="{}"/></svg>',
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0" mimeType="video/mp4"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "asx": '<asx version="3.0"><entry><ref href="{}"/></entry></asx>',
    "ref": "[Reference]\nRef1={}\n",
    "avs": 'DirectShowSource("{}")\n',
    "ffmeta": ";FFMETADATA1\ntitle={}\n",
}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.kind"])
@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_open_nothing_else(tmp_path: Path, canary: tuple[Path, str], kind: str, name: str) -> None:
    clip = (tmp_path / name).with_suffix(f".{kind}" if name == "clip.kind" else "")
    for target in (canary[0].name, *map(str, canary)):
        clip.write_text(SCRIPTS[kind].format(target))
        assert str(reject(clip, FrameSettings(deadline_s=20))) == "not_media: no supported video container"


def box(kind: bytes, content: bytes) -> bytes:
    """A box of an ISO base media file."""
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def test_external_tracks_of_a_movie_stay_closed(tmp_path: Path, canary: tuple[Path, str]) -> None:
    movie = write_numbered(tmp_path / "movie.mp4", 24).read_bytes()
    start = movie.index(b"dref") - 4
    size_of_dref = int.from_bytes(movie[start : start + 4], "big")
    path = str(canary[0]).encode()
    # an alias record of Apple's kind: absolute path (type 18) and name (type 2) after 150 bytes of volume data
    alias = bytes(4) + bytes(150)
    alias += b"".join(
        n.to_bytes(2, "big") + len(t).to_bytes(2, "big") + t + bytes(len(t) % 2) for n, t in ((18, path), (2, path))
    )
    external = box(b"dref", bytes(4) + (1).to_bytes(4, "big") + box(b"alis", alias + b"\xff\xff\0\0"))
    grown = bytearray(movie[:start] + external + movie[start + size_of_dref :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = movie.index(parent) - 4
        length = int.from_bytes(movie[at : at + 4], "big") + len(external) - size_of_dref
        grown[at : at + 4] = length.to_bytes(4, "big")
    (tmp_path / "movie.mp4").write_bytes(grown)
    assert str(reject(tmp_path / "movie.mp4", FrameSettings(deadline_s=20))) == "not_media: no video stream"
    with pytest.raises(FfmpegTimeout):  # the movie does refer to the file
        run_ffmpeg(["-enable_drefs", "1", "-use_absolute_path", "1", "-i", f"file:{tmp_path / 'movie.mp4'}"], 2)


def test_real_broken_clips_are_rejected_and_odd_ones_read(real_data: Path) -> None:
    rejected = {}
    for path in sorted((real_data / "odd" / "videos").iterdir()):
        try:
            frames = extract_frames(path, ANY_LENGTH)
        except Rejected as error:
            rejected[path.name] = error.reason
        else:
            nominal = np.arange(len(frames.jpegs)) / 2
            assert (np.array(frames.times_s) <= nominal + 1e-6).all()
            assert len(frames.times_s) == len(frames.jpegs)
    assert rejected == {
        "corrupted_midstream.mp4": Reason.DECODE_ERROR,
        "derived_audio_only.mp4": Reason.NOT_MEDIA,
        "derived_empty.mp4": Reason.UNREADABLE,
        "derived_html.mp4": Reason.NOT_MEDIA,
        "derived_truncated_faststart.mp4": Reason.DECODE_ERROR,
        "derived_truncated_no_moov.mp4": Reason.DECODE_ERROR,
        "one_pixel_yuv444.mp4": Reason.TOO_SMALL,
    }
