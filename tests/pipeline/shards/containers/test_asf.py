from pathlib import Path

import pytest

from pipeline.shards.containers.completeness import Statement
from pipeline.shards.frames import extract_frames
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings
from tests.pipeline.shards.containers.cuts import fault, statement, write

PACKET = 3200


@pytest.fixture(scope="module")
def wmv(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("wmv") / "a.wmv", "-c:v", "wmv2")


def cut_on_a_packet(wmv: bytes) -> bytes:
    start = int.from_bytes(wmv[16:24], "little") + 50
    return wmv[: start + PACKET * ((len(wmv) - start) // PACKET // 2)]


def changed(wmv: bytes, at: int, value: bytes) -> bytes:
    return wmv[:at] + value + wmv[at + len(value) :]


def test_a_file_cut_between_packets_is_a_reject(wmv: bytes, tmp_path: Path) -> None:
    assert fault(wmv) == fault(wmv + b"more") == ""
    (tmp_path / "a.wmv").write_bytes(cut_on_a_packet(wmv))
    with pytest.raises(Rejected, match=r"the file is cut off: its last .* bytes are missing; it states .* and has"):
        extract_frames(tmp_path / "a.wmv", FrameSettings())


def test_the_number_of_packets_suffices(wmv: bytes) -> None:
    data_size = int.from_bytes(wmv[16:24], "little") + 16
    without = changed(wmv, data_size, bytes(8))
    assert fault(without) == ""
    assert "its last" in fault(cut_on_a_packet(without))


def test_the_duration_reveals_a_preallocated_file(wmv: bytes, tmp_path: Path) -> None:
    kept = cut_on_a_packet(wmv)
    (tmp_path / "a.wmv").write_bytes(kept + bytes(len(wmv) - len(kept)))
    with pytest.raises(Rejected, match=r"cut off: it states 10\.\d+ s and holds [3-6]\.\d+ s"):
        extract_frames(tmp_path / "a.wmv", FrameSettings())


def test_a_long_last_picture_is_no_fault(wmv: bytes) -> None:
    properties = wmv.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    assert fault(changed(wmv, properties + 64, (40 * 10**7).to_bytes(8, "little") * 2)) == ""


def test_broadcasts_are_not_checked(wmv: bytes) -> None:
    flags = wmv.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + 88
    assert statement(changed(wmv, flags, b"\3")) == Statement()
