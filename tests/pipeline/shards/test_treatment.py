from pathlib import Path

import numpy as np
import pytest

from pipeline.shards.ffmpeg import run_ffmpeg
from pipeline.shards.frames import extract_frames, ffmpeg_arguments, split_jpegs
from pipeline.shards.treatment import PLAIN, NeedsTreatment, Observer, Treatment
from pipeline.spec import FrameSettings
from tests.media import decode, numbered, shown_number

ANY_LENGTH = FrameSettings(min_frames=1)
NITS = np.array([0.1, 1, 5, 10, 26, 50, 100, 203, 400, 1000])
BAR = 32


def pq(nits: np.ndarray) -> np.ndarray:
    """Signal of gray levels by SMPTE ST 2084."""
    y = (nits / 10_000) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)


def hlg(nits: np.ndarray) -> np.ndarray:
    """Signal of gray levels on a display of 1000 nits by ITU-R BT.2100."""
    scene = (nits / 1000) ** (1 / 1.2)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


def expected_levels(nits: np.ndarray) -> np.ndarray:
    """Levels on a display of gamma 2.4: tones below 0.3 of 203 nits stay, those above bend."""
    x, knee, peak = nits / 203, 0.3, 10
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    bent = (b**2 + 2 * b * knee + knee**2) / (b - a) * (x + a) / (x + b)
    return np.asarray(255 * np.where(x <= knee, x, bent) ** (1 / 2.4))


def write_gray_bars(path: Path, signal: np.ndarray, tags: tuple[str, str, str], codec: list[str]) -> None:
    """A 10-bit clip of gray bars tagged with (matrix, primaries, transfer)."""
    row = np.round(64 + 876 * signal).astype("<u2").repeat(BAR)
    picture = row[None].repeat(96, 0).tobytes() + np.full(48 * len(row), 512, "<u2").tobytes()
    matrix, primaries, transfer = tags
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{len(row)}x96", "-r", "2", "-i", "pipe:"]
    tagged = f"setparams=range=tv:color_primaries={primaries}:color_trc={transfer}:colorspace={matrix}"
    run_ffmpeg([*raw, "-vf", tagged, *codec, f"file:{path}"], 60, stdin=picture * 4)


FFV1 = ["-c:v", "ffv1"]
X265 = ["-c:v", "libx265", "-x265-params", "log-level=none:qp=4"]


@pytest.mark.parametrize(
    ("name", "signal", "transfer", "codec"),
    [("a.mp4", pq, "smpte2084", X265), ("a.mkv", pq, "smpte2084", FFV1), ("a.mkv", hlg, "arib-std-b67", FFV1)],
)
def test_hdr_gray_levels_are_those_of_the_formulas(
    tmp_path: Path, name: str, signal: object, transfer: str, codec: list[str]
) -> None:
    assert callable(signal)
    write_gray_bars(tmp_path / name, signal(NITS), ("bt2020nc", "bt2020", transfer), codec)
    frames = extract_frames(tmp_path / name, ANY_LENGTH)
    levels = decode(frames.jpegs[0])[48, BAR // 2 :: BAR].astype(float)
    np.testing.assert_allclose(levels, expected_levels(NITS)[:, None].repeat(3, 1), atol=3)
    assert frames.treatment.fields == {"color": f"tone-mapped from {transfer}"}
    assert frames.times_s == [0.0, 0.5, 1.0, 1.5]


def test_hdr_colors_become_those_of_sdr(tmp_path: Path) -> None:
    """Colors of BT.709 at 100 nits, written as BT.2020 with PQ, and a size that 4:2:0 does not divide."""
    linear = np.array([[0.6, 0.05, 0.05], [0.05, 0.6, 0.05], [0.05, 0.05, 0.6]])
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    signal = pq(linear @ to_2020.T * 60)
    luma = signal @ [0.2627, 0.6780, 0.0593]
    cb, cr = (signal[:, 2] - luma) / 1.8814, (signal[:, 0] - luma) / 1.4746
    planes = (64 + 876 * luma, 512 + 896 * cb, 512 + 896 * cr)
    raw = b"".join(np.round(plane).astype("<u2").repeat(65)[None].repeat(145, 0).tobytes() for plane in planes)
    source = ["-f", "rawvideo", "-pix_fmt", "yuv444p10le", "-s", "195x145", "-r", "2", "-i", "pipe:"]
    tagged = "setparams=range=tv:color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"
    run_ffmpeg([*source, "-vf", tagged, "-c:v", "ffv1", f"file:{tmp_path / 'a.mkv'}"], 30, stdin=raw)
    frame = decode(extract_frames(tmp_path / "a.mkv", ANY_LENGTH).jpegs[0])
    assert frame.shape == (145, 195, 3)
    np.testing.assert_allclose(frame[72, [32, 97, 162]], 255 * (linear * 60 / 203) ** (1 / 2.4), atol=6)


def combing(picture: np.ndarray) -> float:
    """Mean difference between neighboring lines beyond that of lines two apart: 0 without combs."""
    lines = picture.mean(2)
    return float(np.abs(np.diff(lines, axis=0)).mean() - np.abs(lines[2:] - lines[:-2]).mean())


def write_interlaced(path: Path, *options: str) -> None:
    """A bar that moves between the fields of 24 pictures at 12 per second."""
    source = (
        "color=gray:s=192x144:r=24:d=2[b];color=white:s=48x144:r=24:d=2[w];[b][w]overlay=x='mod(n*16,144)',interlace"
    )
    run_ffmpeg(["-f", "lavfi", "-i", source, *options, f"file:{path}"], 60)


def test_flagged_pictures_are_deinterlaced_and_keep_their_times(tmp_path: Path) -> None:
    write_interlaced(tmp_path / "flagged.mkv", "-c:v", "ffv1")
    unflagged = ["-vf", "setfield=prog", "-field_order", "progressive", *FFV1, f"file:{tmp_path}/plain.mkv"]
    run_ffmpeg(["-i", f"file:{tmp_path}/flagged.mkv", *unflagged], 60)
    settings = FrameSettings(fps=12)
    flagged, plain = (extract_frames(tmp_path / f"{name}.mkv", settings) for name in ("flagged", "plain"))
    assert (flagged.treatment.fields, plain.treatment.fields) == ({"deinterlaced": True}, {})
    assert flagged.times_s == plain.times_s
    assert len(flagged.jpegs) == len(plain.jpegs) == 24
    assert combing(decode(plain.jpegs[12])) > 5
    assert max(combing(decode(frame)) for frame in flagged.jpegs) < 1


def test_pictures_without_the_flag_stay_as_they_are(tmp_path: Path) -> None:
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "192x144", "-r", "12", "-i", "pipe:"]
    late = "split[a][b];[a]trim=end_frame=18[c];[b]trim=start_frame=18,setpts=PTS-STARTPTS,setfield=tff[d];[c][d]concat"
    for name, filters in (("plain", "null"), ("mixed", late)):
        run_ffmpeg([*raw, "-vf", filters, *FFV1, f"file:{tmp_path / name}.mkv"], 60, stdin=numbered(24))
    plain, mixed = (extract_frames(tmp_path / f"{name}.mkv", ANY_LENGTH) for name in ("plain", "mixed"))
    assert (plain.treatment, mixed.treatment) == (PLAIN, Treatment(deinterlace=True))
    assert mixed.jpegs[:3] == plain.jpegs[:3]
    assert [shown_number(jpeg) for jpeg in mixed.jpegs] == [0, 6, 12, 18]
    arguments = ffmpeg_arguments(f"file:{tmp_path / 'plain.mkv'}", "/dev/null", ANY_LENGTH, mixed.treatment)
    assert split_jpegs(run_ffmpeg(arguments, 60)) == plain.jpegs


def test_a_clip_may_need_both(tmp_path: Path) -> None:
    hdr = "format=yuv420p10le,setparams=color_primaries=bt2020:color_trc=arib-std-b67:colorspace=bt2020nc"
    write_interlaced(tmp_path / "both.mkv", "-vf", hdr, "-c:v", "ffv1")
    frames = extract_frames(tmp_path / "both.mkv", ANY_LENGTH)
    assert frames.treatment.fields == {"deinterlaced": True, "color": "tone-mapped from arib-std-b67"}


def test_ordinary_clips_are_decoded_once_without_a_filter_that_changes_pictures() -> None:
    assert PLAIN.fields == {}
    assert PLAIN.tone_filters == ()
    assert [name.split("=")[0] for name in PLAIN.first_filters] == ["select"]


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        (
            "[info]   Stream #0:0(und): Video: mjpeg, yuv420p(pc, bt470bg/bt2020/smpte2084, progressive), 128x96",
            "bt2020",
        ),
        ("[info]   Stream #0:0: Video: mjpeg (Baseline), yuvj420p(pc, bt470bg/unknown/arib-std-b67), 9x9", "bt2020"),
        ("[info]   Stream #0:0: Video: mjpeg, yuv420p(pc, bt470bg/smpte432/smpte2084, progressive)", "smpte432"),
        ("[info]   Stream #0:0: Video: mjpeg, yuv420p(pc, bt470bg/bt709/bt709, progressive), 128x96", None),
        ("[info]   Stream #0:0: Video: mjpeg, yuv420p(pc, progressive), 128x96 [SAR 1:1 DAR 4:3]", None),
        ("[info]     title           : Stream #0:0: Video: mjpeg, yuv420p(pc, a/b/smpte2084)", None),
        ("[info]                     : [info]   Stream #0:0: Video: mjpeg, yuv420p(pc, a/b/smpte2084)", None),
    ],
)
def test_only_log_lines_about_streams_count(line: str, needed: str | None) -> None:
    if needed is None:
        Observer(PLAIN)(line.encode())
        return
    with pytest.raises(NeedsTreatment) as result:
        Observer(PLAIN)(line.encode())
    assert result.value.treatment.primaries == needed


def test_the_track_that_is_decoded_is_known_by_its_id(tmp_path: Path) -> None:
    sources = ["-f", "lavfi", "-i", "testsrc=s=64x48:d=1", "-f", "lavfi", "-i", "testsrc=s=192x144:d=1"]
    sources += ["-map", "0", "-map", "1", "-c:v", "mpeg4"]
    sources += ["-disposition:v:0", "0", "-disposition:v:1", "default"]
    run_ffmpeg([*sources, f"file:{tmp_path / 'two.mp4'}"], 60)
    observer = Observer(PLAIN)
    run_ffmpeg(["-i", f"file:{tmp_path / 'two.mp4'}", "-f", "null", "-"], 60, watch=observer)
    assert observer.track_id == 2
