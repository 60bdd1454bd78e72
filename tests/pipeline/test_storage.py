import io
import os
import pickle
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from pydantic import TypeAdapter, ValidationError

from pipeline.lock import read_holder, this_process
from pipeline.settings import UserError
from pipeline.storage import Folder, LocalStorage, Storage, Uri, open_storage


@pytest.fixture(params=["local", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "data"))
    bucket: str = request.getfixturevalue("bucket")
    return open_storage(f"{bucket}/{tmp_path.name}")


def test_files_come_back(storage: Storage) -> None:
    assert storage.is_missing()
    storage.write("a/b c.txt", b"hello world")
    storage.write("a/empty", b"")
    storage.write("top", b"1")
    assert storage.read("a/b c.txt") == b"hello world"
    assert storage.read("a/b c.txt", (6, 3)) == b"wor"
    assert storage.read("a/empty") == b""
    with storage.open("a/b c.txt") as stream:
        stream.seek(6)
        assert stream.read(5) == b"world"
    with storage.local("a/b c.txt") as path:
        assert path.read_bytes() == b"hello world"
    assert [storage.size(name) for name in ("a/b c.txt", "a/empty", "a", "none")] == [11, 0, None, None]
    assert storage.files("a") == ["a/b c.txt", "a/empty"]
    assert storage.files() == ["top"]
    assert storage.files("none") == []
    assert sorted(storage.walk()) == ["a/b c.txt", "a/empty", "top"]
    assert not storage.is_missing()


def test_the_location_is_the_same_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path / "a")
    for spelled in (".", f"{tmp_path}/a/", "../a", "b/..", "../link/.", "../link/b/../"):
        assert open_storage(spelled).location == str(tmp_path / "a")
    for spelled in ("s3://bucket/x", "s3://bucket/x/", "s3a://bucket/x"):
        assert open_storage(spelled).location == "s3://bucket/x"


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "a%20b ä#?c"
    (folder / "in").mkdir(parents=True)
    path = str(folder).replace("%", "%25")
    for address in (
        f"file://{path}",
        f"file://localhost{path}/",
        f"FILE:////{path}/in/..",
        f"file://{quote(str(folder))}",
    ):
        storage = open_storage(address)
        assert isinstance(storage, LocalStorage)
        assert storage.location == open_storage(str(folder)).location
        for kind in (Uri, Folder):
            assert Path(str(TypeAdapter(kind).validate_python(address))).resolve() == folder
    for address in ("file:/x", "file:x", "file://x/d", "file://", "file:///", "file:////", "file://localhost"):
        with pytest.raises(UserError, match=f"'{address}' is not the URI of .*: allowed are file:///PATH, /PATH"):
            open_storage(address)
        with pytest.raises(ValidationError, match="is not the URI of a folder or file on this machine"):
            TypeAdapter(Uri).validate_python(address)


def test_a_file_is_complete_or_missing(storage: Storage) -> None:
    def fail() -> None:
        with storage.atomic_write("file") as path:
            path.write_bytes(b"half")
            assert storage.size("file") is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(storage.walk()) == []


def test_files_and_folders_are_removed(storage: Storage) -> None:
    for name in ("a/1", "a/b/2", "c", ".tmp-half", "a/.tmp-half"):
        storage.write(name, b"x")
    storage.clean()
    assert sorted(storage.walk()) == ["a/.tmp-half", "a/1", "a/b/2", "c"]
    storage.remove("a")
    storage.remove("none")
    assert list(storage.walk()) == ["c"]
    storage.remove("c")
    assert list(storage.walk()) == []


def test_messages_name_a_folder_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("some/folder/")
    assert str(storage) == "some/folder"
    monkeypatch.chdir("/")
    storage.write("file", b"x")
    assert (tmp_path / "some" / "folder" / "file").is_file(), "the folder is that of the time when it was opened"


def test_a_second_job_is_kept_out_until_the_first_one_ends(storage: Storage) -> None:
    first, second = storage, pickle.loads(pickle.dumps(storage))
    with (
        first.exclusive_lock("parts/lock"),
        pytest.raises(
            UserError, match=r"another job is writing to .* on .*, process \d+, .*: wait for it or stop it first"
        ),
        second.exclusive_lock("parts/lock"),
    ):
        pass
    with second.exclusive_lock("parts/lock"):
        assert list(first.walk()) == ["parts/lock"]
    assert list(first.walk()) == []


def test_a_lock_that_another_machine_left_is_refused_and_one_that_died_here_is_taken(storage: Storage) -> None:
    current = this_process()
    foreign = current.model_copy(
        update={"host": "node7", "boot": "other", "heartbeat": current.heartbeat - timedelta(hours=3)}
    )
    storage.write("lock", foreign.model_dump_json().encode())
    with storage.local("lock") as path:
        os.utime(path, (0, path.stat().st_mtime - 3 * 3600))  # the age of a file
    with (
        pytest.raises(UserError, match=r"without a heartbeat for 3 hours: .* remove .*/lock$"),
        storage.exclusive_lock("lock"),
    ):
        pass
    dead = current.model_copy(update={"pid": 2**22})  # no process has this number
    storage.write("lock", dead.model_dump_json().encode())
    with storage.exclusive_lock("lock"):
        holder = read_holder(storage.read("lock"))
        assert holder is not None
        assert holder.process == current.process
    assert list(storage.walk()) == []


def test_the_lock_of_a_later_job_stays(storage: Storage) -> None:
    """A user followed the advice and removed the lock of a running job."""
    later = this_process().model_copy(update={"host": "node7", "boot": "other"}).model_dump_json().encode()
    with storage.exclusive_lock("lock"):
        storage.remove("lock")
        storage.write("lock", later)
    assert storage.read("lock") == later


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UserError, match=r"cannot write to the output folder .*file: "),
        open_storage(str(tmp_path / "file")).exclusive_lock("lock"),
    ):
        pass


def test_missing_files_are_os_errors(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("none")
    storage.write("short", b"12345")
    with pytest.raises(EOFError, match="short ends before byte 9"):
        storage.read("short", (3, 6))


def test_a_storage_can_be_pickled(storage: Storage) -> None:
    storage.write("file", b"x")
    recorded = pickle.loads(pickle.dumps(storage))
    assert recorded.read("file") == b"x"
    assert str(recorded) == str(storage)


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "class").mkdir()
    listed = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("class"):  # the tests may run as root, who can read any folder
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="class"):
        list(open_storage(str(tmp_path)).walk())


def test_hidden_folders_are_left_out(storage: Storage) -> None:
    storage.write(".parts/x", b"x")
    assert list(storage.walk()) == []
    assert storage.files(".parts") == [".parts/x"]


def test_unusable_uris_are_named(bucket: str) -> None:
    with pytest.raises(UserError, match="cannot use nosuch://x/y"):
        open_storage("nosuch://x/y")
    with pytest.raises(OSError, match="bucket does not exist"):
        open_storage("s3://no-such-bucket/x").write("a", b"1")


def test_an_unreachable_store_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()  # or connections to the previous endpoint are reused
    with pytest.raises(OSError, match=r"s3://bucket/other: Could not connect"):
        open_storage("s3://bucket/other").size("x")
    s3fs.S3FileSystem.clear_instance_cache()


def test_parquet_is_read_by_no_other_thread_through_python(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's threads might release Python objects while the program exits, which aborts it."""
    table = pa.table({"number": list(range(1000))})
    with storage.atomic_write("table.parquet") as path:
        pq.write_table(table, path, row_group_size=100)
    data, readers = storage.read("table.parquet"), set[int]()

    class Recorded(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            readers.add(threading.get_ident())
            return super().read(size)

    monkeypatch.setattr(type(storage), "open", lambda *_: Recorded(data))
    with storage.parquet("table.parquet") as file:
        assert file.read(use_threads=False).equals(table)
    assert readers <= {threading.get_ident()}
