import os
from pathlib import Path

import pytest

from pipeline.files import atomic_path, sha256_file, write_bytes


def test_file_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_replaces_folder(tmp_path: Path) -> None:
    for content in ("a", "b"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]


def test_devices_and_files_in_the_way_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "device")
    with pytest.raises(OSError, match="is a device"):
        write_bytes(tmp_path / "device", b"")
    write_bytes(tmp_path / "file", b"mine")

    def replace_file() -> None:
        with atomic_path(tmp_path / "file") as temporary:
            temporary.mkdir()

    with pytest.raises(NotADirectoryError):
        replace_file()
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device", "file"]


def test_sha256(tmp_path: Path) -> None:
    write_bytes(tmp_path / "abc", b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
