"""The lock of a folder: its holder, when it is free, and the message otherwise."""

import errno
import fcntl
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import lock
from pipeline.lock import Holder, is_running, lock_file, read_holder, refusal, this_process
from pipeline.settings import UserError

HERE = this_process()
DEAD = HERE.model_copy(update={"pid": 2**22})  # no process has this number
NEIGHBOR = HERE.model_copy(update={"namespace": "pid:[1]"})
FOREIGN = HERE.model_copy(update={"owner": "alice", "host": "node7", "boot": "other"})
NAMESAKE = HERE.model_copy(update={"boot": "other"})
DAY = 86_400.0


@pytest.mark.parametrize(
    ("holder", "acquired", "age_s", "uptime_s", "running"),
    [
        pytest.param(DEAD, True, 1, DAY, False, id="dead on this machine"),
        pytest.param(HERE, False, 3 * DAY, DAY, True, id="stopped for days on this machine"),
        pytest.param(NEIGHBOR, True, 1, DAY, False, id="dead in another container of this machine"),
        pytest.param(DEAD, None, 1, DAY, False, id="dead on this machine, no flock"),
        pytest.param(HERE, None, 3 * DAY, DAY, True, id="runs on this machine, no flock"),
        pytest.param(HERE.model_copy(update={"ticks": 1}), None, 1, DAY, False, id="number used again"),
        pytest.param(NEIGHBOR, None, 1, DAY, None, id="another container of this machine, no flock"),
        pytest.param(FOREIGN, True, 1, DAY, None, id="another machine"),
        pytest.param(FOREIGN, False, 3 * DAY, DAY, None, id="another machine, flock reaches it"),
        pytest.param(FOREIGN, True, 3 * DAY, DAY, None, id="another machine, before this one was started"),
        pytest.param(NAMESAKE, True, 3 * DAY, DAY, False, id="this machine before it was started again"),
        pytest.param(NAMESAKE, True, DAY / 2, DAY, None, id="another machine of this name"),
        pytest.param(NAMESAKE, True, 60, 30, None, id="another machine of this name, this one just started"),
        pytest.param(NAMESAKE, False, 3 * DAY, DAY, None, id="another machine of this name, flock reaches it"),
    ],
)
def test_whether_the_holder_runs(
    holder: Holder, acquired: bool | None, age_s: float, uptime_s: float, running: bool | None
) -> None:
    assert is_running(holder, HERE, acquired, age_s, uptime_s) is running


def test_messages_tell_a_lock_in_use_from_a_stale_one() -> None:
    who = f"alice on node7, process {HERE.pid}, since {HERE.start:%Y-%m-%d %H:%M} UTC"
    in_use = f"another job is writing to runs/k400 ({who}): wait for it or stop it first"
    for running, age_s, message in (
        (False, 1.0, None),
        (None, 100.0, in_use),
        (True, DAY, in_use),
        (
            None,
            130.0,
            f"runs/k400 is locked by another job ({who}) without a heartbeat for 2 minutes: make sure that it has "
            "ended, then remove runs/k400/.lock",
        ),
    ):
        assert refusal("runs/k400", "runs/k400/.lock", FOREIGN, running, age_s) == message


def held_by_a_child(path: Path) -> int:
    """A process that holds the lock until it is killed."""
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            with lock_file(path, "run"):
                os.write(tell, b"1")
                signal.pause()
        finally:  # the child must not run the other tests
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    return child


def no_flock(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("flock", [fcntl.flock, no_flock])
def test_kill_9_frees_the_lock_at_once(
    flock: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "new" / "lock"
    child = held_by_a_child(path)
    with (
        pytest.raises(UserError, match=rf"another job is writing to run \(.*, process {child}, "),
        lock_file(path, "run"),
    ):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.exists()
    with lock_file(path, "run"):
        holder = read_holder(path.read_bytes())
        assert holder is not None
        assert holder.process == HERE.process
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("hours", "expected"), [(0, "another job is writing to run"), (3, "without a heartbeat for 3 hours: make sure")]
)
def test_a_foreign_lock_is_never_broken(hours: int, expected: str, tmp_path: Path) -> None:
    """The clock of the other machine does not matter: here it is years ahead."""
    path = tmp_path / "lock"
    ahead = FOREIGN.model_copy(update={"heartbeat": FOREIGN.heartbeat.replace(year=2050)})
    path.write_bytes(content := ahead.model_dump_json().encode())
    os.utime(path, (0, time.time() - 3600 * hours))
    with pytest.raises(UserError, match=re.escape(expected)), lock_file(path, "run"):
        pass
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_holder_has_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    path = tmp_path / "lock"
    with lock_file(path, "run"):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        with path.open() as stream:
            assert lock._age_s(path, stream.fileno()) < 20
    assert not path.exists()


def test_a_lock_file_that_its_holder_just_removed_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = tmp_path / "lock", fcntl.flock

    def removed_first(*arguments: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with lock_file(path, "run"), pytest.raises(UserError, match="another job"), lock_file(path, "run"):
        pass
    assert not path.exists()
