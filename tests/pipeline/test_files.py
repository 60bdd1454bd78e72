import os
from pathlib import Path

import pytest

from pipeline.files import atomic_path, remove_files, sha256_file, write_bytes
from pipeline.settings import UserError


def test_file_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
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


def make_folder(path: Path, name: str, replaces: tuple[str, ...] = ()) -> None:
    with atomic_path(path, replaces) as temporary:
        temporary.mkdir()
        (temporary / name).write_text(name)


def test_folder_replaces_folder_of_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        make_folder(tmp_path / "folder", name, ("a", "b"))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]


@pytest.mark.parametrize("other", ["other", ".hidden", "link", "folder"])
def test_a_folder_with_other_files_is_not_changed(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "folder"
    make_folder(folder, "a")
    if other == "folder":
        (folder / other).mkdir()
    elif other == "link":
        (folder / other).symlink_to(folder / "a")
    else:
        (folder / other).touch()
    for replaces in ((), ("a",), ("a", "link", "folder")):
        with pytest.raises(UserError, match="which this program did not write, and is not replaced"):
            make_folder(folder, "a", replaces)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["a", other])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_files_that_appear_meanwhile_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make_folder(folder, "a")

    def meanwhile() -> None:
        with atomic_path(folder, ("a",)) as temporary:
            temporary.mkdir()
            (folder / "new").touch()

    with pytest.raises(UserError, match="holds new, which this program did not write"):
        meanwhile()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "new"]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    for content in (b"1", b"2"):
        write_bytes(tmp_path / "link", content)
        assert (tmp_path / "far" / "file").read_bytes() == content
    assert (tmp_path / "link").is_symlink()


def test_only_the_named_files_of_a_folder_are_removed(tmp_path: Path) -> None:
    for name in ("kept", "gone"):
        make_folder(tmp_path / name, "a")
    (tmp_path / "kept" / "b").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_files(tmp_path / "link", ("a", "b"))
    assert len(list((tmp_path / "kept").iterdir())) == 2
    for name in ("kept", "gone"):
        remove_files(tmp_path / name, ("a", "missing"))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["b"]
    assert not (tmp_path / "gone").exists()


def test_devices_and_files_in_the_way_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "device")
    with pytest.raises(OSError, match="is a device"):
        write_bytes(tmp_path / "device", b"")
    for dots in (Path(), Path("..")):
        with pytest.raises(OSError, match="must be given by its name"):
            write_bytes(dots, b"")
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
