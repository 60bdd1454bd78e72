from pathlib import Path

import pytest

from pipeline.shards.containers.completeness import Statement
from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings, Reason
from tests.pipeline.shards.containers.cuts import fault, statement, write

SEGMENT, INFO, CUES, CLUSTER = b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x1c\x53\xbb\x6b", b"\x1f\x43\xb6\x75"
DURATION = b"\x44\x89\x88"


@pytest.fixture(scope="module")
def mkv(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Ten seconds of pictures and twelve of sound, in clusters of about two seconds."""
    options = ("-c:v", "mpeg4", "-c:a", "aac", "-cluster_time_limit", "2000")
    return write(tmp_path_factory.mktemp("mkv") / "clip.mkv", *options, sound_s=12)


def of_unknown_size(mkv: bytes) -> bytes:
    offset = mkv.index(SEGMENT) + 4
    return mkv[:offset] + b"\x01" + b"\xff" * 7 + mkv[offset + 8 :]


def of_its_size(mkv: bytes) -> bytes:
    """The file with a segment that ends where the file does."""
    offset = mkv.index(SEGMENT) + 4
    return mkv[:offset] + b"\x01" + (len(mkv) - offset - 8).to_bytes(7, "big") + mkv[offset + 8 :]


def without_duration(mkv: bytes) -> bytes:
    offset = mkv.index(DURATION, mkv.index(INFO)) + 3
    return mkv[:offset] + bytes(8) + mkv[offset + 8 :]


def clusters(mkv: bytes) -> list[int]:
    """Where they begin, and where the last ends."""
    result, at = [], mkv.index(CLUSTER)
    while at > 0:
        result.append(at)
        at = mkv.find(CLUSTER, at + 4)
    return [*result, mkv.index(CUES, result[-1])]


def test_a_cut_clip_is_a_reject_and_not_a_short_clip(mkv: bytes, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    clip.write_bytes(mkv)
    assert len(extract_frames(clip, FrameSettings()).jpegs) == 20
    kept = len(mkv) * 6 // 10
    clip.write_bytes(mkv[:kept])
    with pytest.raises(
        Rejected, match=f"its last {len(mkv) - kept} bytes are missing; it states {len(mkv)}"
    ) as rejected:
        extract_frames(clip, FrameSettings())
    assert rejected.value.reason is Reason.DECODE_ERROR


@pytest.mark.parametrize("how", ["stopped", "preallocated", "size mended"])
def test_the_duration_reveals_a_cut_that_the_size_does_not(mkv: bytes, tmp_path: Path, how: str) -> None:
    kept = mkv[: clusters(mkv)[2]]
    cut = {
        "stopped": of_unknown_size(kept),
        "preallocated": kept + bytes(len(mkv) - len(kept)),
        "size mended": of_its_size(kept),
    }[how]
    (tmp_path / "clip.mkv").write_bytes(cut)
    with pytest.raises(Rejected, match=r"cut off: it states 12\.\d+ s and holds [34]\.\d+ s") as rejected:
        extract_frames(tmp_path / "clip.mkv", FrameSettings())
    assert rejected.value.reason is Reason.DECODE_ERROR


def test_cues_reveal_a_hole(mkv: bytes) -> None:
    starts = clusters(mkv)
    holed = of_its_size(mkv[: starts[2]] + mkv[starts[3] :])
    assert "hole: it ends at" in fault(holed)
    assert "hole: it ends at" in fault(without_duration(of_unknown_size(holed)))
    lost_cues = holed.replace(CUES, b"\x1c\x53\xbb\x6a")
    assert fault(lost_cues) == ""  # a gap in time alone is none


def test_cues_reveal_a_lost_end(mkv: bytes) -> None:
    starts = clusters(mkv)
    assert "it states" in fault(without_duration(of_its_size(mkv[: starts[2]] + mkv[starts[-1] :])))


def test_cues_with_wrong_offsets_are_no_fault(mkv: bytes) -> None:
    start = clusters(mkv)[0]
    assert fault(of_its_size(mkv[:start] + b"\xec\x83\0\0\0" + mkv[start:])) == ""


def test_a_long_last_picture_is_no_fault(mkv: bytes) -> None:
    offset = mkv.index(DURATION, mkv.index(INFO)) + 4
    longer = mkv[:offset] + bytes([mkv[offset] + 1]) + mkv[offset + 1 :]
    assert fault(longer) == ""
    assert "it states" in fault(longer.replace(CUES, b"\x1c\x53\xbb\x6a"))


def test_live_recordings_are_not_checked(mkv: bytes) -> None:
    assert fault(mkv) == fault(mkv + b"more") == fault(of_unknown_size(mkv)) == ""
    assert statement(without_duration(of_unknown_size(mkv))[: clusters(mkv)[2]]) == Statement()
