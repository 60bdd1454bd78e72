import errno
import os
import stat
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import temporary
from pipeline.settings import UserError
from pipeline.shards.decode import Inputs, decode
from pipeline.shards.plan import Planned, make_plan
from pipeline.shards.sources import Listing, Source
from pipeline.spec import FrameSettings, ImageSettings
from pipeline.storage import LocalStorage, open_storage
from pipeline.temporary import full_disk_is_temporary, short_folder, temporary_folder

NO_ROOM = "cannot write temporary files to {}: .*; make room there, or set TMPDIR to another folder"


@pytest.fixture
def full_tmpdir(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TMPDIR on a disk that is full but for its last 100 kB."""
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setenv("TMPDIR", str(small_disk))
    (small_disk / "filler").write_bytes(bytes(1_900_000))
    return small_disk


def upload(out: Path) -> None:
    open_storage("memory://temporary").write("file", bytes(1_000_000))


def download(out: Path) -> None:
    storage = open_storage("memory://temporary")
    storage._located[0].pipe_file("/temporary/large", bytes(1_000_000))  # type: ignore[attr-defined]
    with storage.local("large"):
        pass


def plan(out: Path) -> None:
    sources = (Source(f"{number:0500}", f"{number:0500}", "c", "images") for number in range(20_000))  # 20 MB
    make_plan(Listing("DATA", sources), 0, 5, out / "plan")


def clip_of_a_tar(out: Path) -> None:
    (out / "x.tar").write_bytes(bytes(1_000_000))
    inputs = Inputs(LocalStorage(str(out)), "x.tar", "clips", FrameSettings(), ImageSettings())
    decode(inputs, Planned("c/x.mp4", "x", "c", 0, (0, 1_000_000)), defaultdict(float))


@pytest.mark.parametrize("use", [upload, download, plan, clip_of_a_tar])
def test_a_full_tmpdir_and_a_full_output_have_different_messages(
    use: Callable[[Path], None], full_tmpdir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=NO_ROOM.format(full_tmpdir)):
        use(tmp_path)
    assert [path.name for path in full_tmpdir.iterdir()] == ["filler"], "what was written is removed"


def test_a_missing_tmpdir_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match=NO_ROOM.format(tmp_path / "none")), temporary_folder():
        pass


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), full_disk_is_temporary():
        raise OSError(errno.EACCES, "Permission denied", "input")


def test_short_folders_are_private_in_a_short_tmpdir_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as tmpdir:
        monkeypatch.setenv("TMPDIR", tmpdir)
        with short_folder(40) as folder:
            assert folder.parent == Path(tmpdir)
            assert len(os.fsencode(folder)) <= 40
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "log").touch()
        assert not folder.exists()


def test_long_and_full_tmpdirs_are_skipped(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tmpdir, longest in ((tmp_path, len(str(tmp_path))), (small_disk, 200), (tmp_path / "none", 200)):
        monkeypatch.setenv("TMPDIR", str(tmpdir))
        with short_folder(longest) as folder:
            assert str(folder.parent) in temporary._SHORT_FOLDERS
    monkeypatch.setattr(temporary, "_SHORT_FOLDERS", (str(small_disk),))
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 100)))
    with (
        pytest.raises(UserError, match=r"xxx: its path has \d+ bytes, more than the 87 .*; .*: only 1 MB are free\)"),
        short_folder(100),
    ):
        pass
