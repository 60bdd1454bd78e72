import struct
from pathlib import Path

import pytest

from pipeline.shards.containers.completeness import Extent
from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings
from tests.pipeline.shards.containers.cuts import fault, statement, write


@pytest.fixture(scope="module")
def flv(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("flv") / "a.flv", "-c:v", "flv", "-c:a", "aac", sound_s=12)


def stating(flv: bytes, **values: float) -> bytes:
    """The file with other values in its metadata."""
    changed = bytearray(flv)
    for name, value in values.items():
        at = flv.index(name.encode() + b"\0") + len(name) + 1
        changed[at : at + 8] = struct.pack(">d", value)
    return bytes(changed)


def cut_on_a_tag(flv: bytes) -> bytes:
    at = 13
    while at < len(flv) // 2:
        at += 15 + int.from_bytes(flv[at + 1 : at + 4], "big")
    return flv[:at]


def test_complete_files_are_accepted(flv: bytes) -> None:
    (extent,) = statement(flv).extents
    assert extent.stated_s == pytest.approx(12, abs=0.1)
    assert extent.present_s == pytest.approx(12, abs=0.1)  # of the sound, which is longer
    assert fault(flv) == fault(flv + b"more") == ""


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ({"duration": 0.0}, "bytes are missing; it states"),
        ({"filesize": 0.0}, r"it states 12\.\d+ s and holds \d\.\d+ s"),
    ],
)
def test_a_file_cut_between_tags_is_a_reject(flv: bytes, tmp_path: Path, values: dict[str, float], detail: str) -> None:
    (tmp_path / "a.flv").write_bytes(cut_on_a_tag(stating(flv, **values)))
    with pytest.raises(Rejected, match=detail):
        extract_frames(tmp_path / "a.flv", FrameSettings())


def test_live_recordings_are_only_checked_for_their_last_tag(flv: bytes) -> None:
    live = stating(flv, duration=0.0, filesize=0.0)
    assert fault(cut_on_a_tag(live)) == ""
    assert "its last 5 bytes are missing" in fault(cut_on_a_tag(live)[:-9])
    assert statement(stating(flv, duration=float("nan"))).extents == []
    assert statement(stating(flv, duration=-1.0)).extents == []


def test_times_count_from_the_first_tag(flv: bytes) -> None:
    later = bytearray(flv)
    at = 13
    while at < len(flv):
        if flv[at] != 18:
            later[at + 7] = 1  # the high byte: 4.7 hours
        at += 15 + int.from_bytes(flv[at + 1 : at + 4], "big")
    assert statement(bytes(later)).extents == [Extent(*statement(flv).extents[0])]
