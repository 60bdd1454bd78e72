import struct
from pathlib import Path

import pytest

from pipeline.shards.containers.completeness import Statement
from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings
from tests.pipeline.shards.containers.cuts import fault, statement, write


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("avi") / "a.avi", "-c:v", "mpeg4", sound_s=12)


def cut_on_a_chunk(avi: bytes) -> bytes:
    at = avi.index(b"movi") + 4
    while at < len(avi) // 2:
        at += 8 + int.from_bytes(avi[at + 4 : at + 8], "little") + 1 & ~1
    return avi[:at]


def test_an_avi_cut_between_chunks_is_a_reject(avi: bytes, tmp_path: Path) -> None:
    assert fault(avi) == ""
    (tmp_path / "a.avi").write_bytes(cut_on_a_chunk(avi))
    with pytest.raises(Rejected, match=r"the file is cut off: its last .* bytes are missing; it states .* and has"):
        extract_frames(tmp_path / "a.avi", FrameSettings())


def test_a_file_cut_in_its_index_has_all_pictures(avi: bytes) -> None:
    assert fault(avi[: avi.index(b"idx1") + 20]) == ""


def sized(avi: bytes, movi: int, frames: int) -> bytes:
    """The file with other values for the size of its media data and the number of its pictures."""
    changed = bytearray(avi)
    at = avi.index(b"movi")
    changed[at - 4 : at] = struct.pack("<L", movi)
    at = avi.index(b"strh") + 8 + 32
    changed[at : at + 4] = struct.pack("<L", frames)
    return bytes(changed[: avi.index(b"idx1")] if movi == 0 else changed)


def test_the_number_of_pictures_counts_only_where_no_size_is_stated(avi: bytes, tmp_path: Path) -> None:
    """Clips of HMDB51 state 48 pictures and have 40, as many as their authors annotated."""
    size = int.from_bytes(avi[avi.index(b"movi") - 4 :][:4], "little")
    assert statement(sized(avi, size, 144)).pictures_s == {}
    assert statement(sized(avi, 0, 1 << 30)) == Statement()  # ffmpeg's word for "not known yet"
    unfinished = sized(avi, 0, 144)
    assert statement(unfinished) == Statement(pictures_s={0: 143 / 12})
    (tmp_path / "a.avi").write_bytes(unfinished)
    with pytest.raises(Rejected, match=r"it states pictures until 11\.917 s and the last is at \d+\.\d+ s"):
        extract_frames(tmp_path / "a.avi", FrameSettings())


def test_the_super_index_names_media_data_behind_the_first_part() -> None:
    """OpenDML: a large AVI has several parts, of which the last may be missing."""
    entries = struct.pack("<QLLQLL", 100, 50, 1, 90_000, 1000, 1)
    indx = struct.pack("<4sLHBBL4s12x", b"indx", 24 + len(entries), 4, 0, 0, 2, b"00dc") + entries
    strl = struct.pack("<4sL4s", b"LIST", 4 + len(indx), b"strl") + indx
    hdrl = struct.pack("<4sL4s", b"LIST", 4 + len(strl), b"hdrl") + strl
    movi = struct.pack("<4sL4s", b"LIST", 4, b"movi")
    first_part = struct.pack("<4sL4s", b"RIFF", 4 + len(hdrl + movi), b"AVI ") + hdrl + movi
    assert statement(first_part) == Statement(end=91_000)


def test_skipped_pictures_are_not_missing_ones(tmp_path: Path) -> None:
    gaps = ["-vf", "select='not(mod(n,5)-1)'", "-fps_mode", "passthrough"]
    write(tmp_path / "a.avi", "-c:v", "mpeg4", *gaps)
    assert len(extract_frames(tmp_path / "a.avi", FrameSettings()).jpegs) > 15
