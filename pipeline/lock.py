"""One job at a time in a folder, also where several machines see its files.

The lock file says who holds it. Its holder keeps it under `flock`, which ends with the process, and writes it anew
every `BEAT_S` seconds for other machines, which `flock` may not reach. A lock whose holder died on this machine is
free; one that another machine left behind is refused with its age, as nobody here can know that its holder is dead.
"""

import contextlib
import errno
import fcntl
import getpass
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.files import TEMPORARY_PREFIX
from pipeline.settings import UserError

BEAT_S = 20.0
"""Seconds between two signs of life of a holder."""
STALE_S = 120.0
"""After so many seconds without a sign of life a lock is called stale."""
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What `flock` says on file systems that lack it."""


class Holder(BaseModel):
    """Who holds a lock: the content of its file."""

    model_config = ConfigDict(frozen=True)

    owner: str
    host: str
    pid: int
    start: datetime
    heartbeat: datetime
    boot: str
    """Id of the running kernel: the containers of a machine share it, machines of one name do not."""
    namespace: str
    """That of `pid`: containers count processes each for themselves."""
    ticks: int
    """Start of the process since the boot; a later process of the same number has another one."""

    @property
    def process(self) -> tuple[str, str, int, int]:
        """What no other process has in common with this one."""
        return self.boot, self.namespace, self.pid, self.ticks

    def __str__(self) -> str:
        return f"{self.owner} on {self.host}, process {self.pid}, since {self.start:%Y-%m-%d %H:%M} UTC"

    def beating(self) -> bytes:
        """The content of the file, with a sign of life of now."""
        return self.model_copy(update={"heartbeat": _now()}).model_dump_json(indent=2).encode() + b"\n"


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)  # as wide as any other: the file is written in place


def _ticks(pid: int) -> int | None:
    """When a process was started, in ticks since the boot; None if it is not running."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(numbers[18])


def this_process() -> Holder:
    """The holder of a lock that this process takes."""
    pid, now = os.getpid(), _now()
    try:
        owner = getpass.getuser()
    except (KeyError, OSError):  # in a container a user may have no name
        owner = f"user {os.getuid()}"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - what it names is no path
    return Holder(
        owner=owner,
        host=platform.node(),
        pid=pid,
        start=now,
        heartbeat=now,
        boot=boot,
        namespace=namespace,
        ticks=_ticks(pid) or 0,
    )


def read_holder(content: bytes) -> Holder | None:
    """Whom a lock file names; None while it is made."""
    try:
        return Holder.model_validate_json(content)
    except ValidationError:
        return None


def uptime_s() -> float:
    """Seconds since this machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_running(holder: Holder, here: Holder, given: bool | None, age_s: float, uptime_s: float) -> bool | None:
    """Whether the holder's process runs; None where that cannot be known from here.

    `given` says whether flock gave the file to this process, None without flock; `age_s` is the time since the holder's
    last sign of life, `uptime_s` that since this machine was started.
    """
    if holder.boot == here.boot:
        if given is not None:
            return not given
        return _ticks(holder.pid) == holder.ticks if holder.namespace == here.namespace else None
    ended_with_its_machine = holder.host == here.host and age_s > max(uptime_s, STALE_S)
    return False if ended_with_its_machine and given is not False else None


def refusal(place: str, file: str, holder: Holder, running: bool | None, age_s: float) -> str | None:
    """Why the lock `file` of the folder `place` cannot be taken; None if its holder does not run any more."""
    if running is False:
        return None
    if running is None and age_s > STALE_S:
        return (
            f"{place} is locked by another job ({holder}), without a sign of life for {_duration(age_s)}: make sure "
            f"that it has ended, then remove {file}"
        )
    return f"another job is writing to {place} ({holder}): wait for it or stop it first"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


@contextlib.contextmanager
def heartbeat(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` every `BEAT_S` seconds while the block runs; a failure, as on a full disk, does not end it."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                beat()

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has that name: a holder removes its lock file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(path: Path) -> tuple[int, bool | None]:
    """Open the lock file, made if need be; also returns whether flock gave it to this process, None without flock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        given: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            given = False
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                os.close(descriptor)
                raise
            given = None
        if _is_at(path, descriptor):
            return descriptor, given
        os.close(descriptor)


def _age_s(path: Path, descriptor: int) -> float:
    """Seconds since a file was written: both times are the file system's, for the clocks of machines may differ."""
    probe, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
    try:
        os.write(probe, b"now")
        os.fsync(probe)
        return max(os.fstat(probe).st_mtime - os.fstat(descriptor).st_mtime, 0.0)
    finally:
        os.close(probe)
        Path(name).unlink(missing_ok=True)


def _check_free(path: Path, place: str, descriptor: int, given: bool | None, here: Holder) -> None:
    """Make sure that an open lock file may be taken.

    Raises:
        UserError: it may not.
    """
    holder = read_holder(os.pread(descriptor, 4096, 0))
    if holder is None:  # made a moment ago
        if given is False:
            raise UserError(f"another job is writing to {place}: wait for it or stop it first")
        return
    age_s = _age_s(path, descriptor)
    running = is_running(holder, here, given, age_s, uptime_s())
    if message := refusal(place, str(path), holder, running, age_s):
        raise UserError(message)


def _write(descriptor: int, content: bytes) -> None:
    os.pwrite(descriptor, content, 0)  # in place: never empty, and nobody's later file of this name
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)


@contextlib.contextmanager
def lock_file(path: Path, place: str) -> Iterator[None]:
    """Hold the lock file `path` of the folder that messages call `place` while the block runs, then remove it.

    Raises:
        UserError: another job holds it.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    current = this_process()
    descriptor, given = _open(path)
    try:
        _check_free(path, place, descriptor, given, current)
        try:
            _write(descriptor, current.beating())
            with heartbeat(lambda: _write(descriptor, current.beating())):
                yield
        finally:
            if _is_at(path, descriptor):
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
