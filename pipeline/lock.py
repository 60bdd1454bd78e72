"""A lock file that allows one job at a time in a folder, also on a file system shared by several machines.

The file contains its holder, which keeps it under `flock` (released when the process ends) and rewrites it every
`BEAT_S` seconds for other machines, which `flock` may not reach. If the holder died on this machine, the lock is free.
A lock left behind by another machine is refused with its age, as it is unknown whether its holder still runs.
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
"""Seconds between two heartbeats of a holder."""
STALE_S = 120.0
"""Seconds without a heartbeat after which a lock is called stale."""
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of `flock` on file systems without it."""


class Holder(BaseModel):
    """The holder of a lock: the content of its file."""

    model_config = ConfigDict(frozen=True)

    owner: str
    host: str
    pid: int
    start: datetime
    heartbeat: datetime
    boot: str
    """ID of the running kernel: shared by the containers of a machine, but not by machines with the same name."""
    namespace: str
    """Process namespace of `pid`, which each container has for itself."""
    ticks: int
    """Start of the process in ticks since the boot, which tells it from a later process with the same number."""

    @property
    def process(self) -> tuple[str, str, int, int]:
        """Unique identity of the process."""
        return self.boot, self.namespace, self.pid, self.ticks

    def __str__(self) -> str:
        return f"{self.owner} on {self.host}, process {self.pid}, since {self.start:%Y-%m-%d %H:%M} UTC"

    def beating(self) -> bytes:
        """The content of the file, with a heartbeat of now."""
        return self.model_copy(update={"heartbeat": _now()}).model_dump_json(indent=2).encode() + b"\n"


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)  # of constant length: the file is overwritten in place


def _ticks(pid: int) -> int | None:
    """Start of a process in ticks since the boot; None if it is not running."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(numbers[18])


def this_process() -> Holder:
    """The current process as a holder."""
    pid, now = os.getpid(), _now()
    try:
        owner = getpass.getuser()
    except (KeyError, OSError):  # users without a name exist in containers
        owner = f"user {os.getuid()}"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - its target is not a path
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
    """The holder in a lock file; None while the file is being created."""
    try:
        return Holder.model_validate_json(content)
    except ValidationError:
        return None


def uptime_s() -> float:
    """Seconds since the boot of this machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_running(holder: Holder, current: Holder, acquired: bool | None, age_s: float, uptime_s: float) -> bool | None:
    """Whether the holder's process runs; None if this process cannot know.

    Args:
        holder: holder in the lock file.
        current: this process.
        acquired: whether this process acquired `flock` on the file; None without `flock`.
        age_s: seconds since the holder's last heartbeat.
        uptime_s: seconds since the boot of this machine.
    """
    if holder.boot == current.boot:
        if acquired is not None:
            return not acquired
        return _ticks(holder.pid) == holder.ticks if holder.namespace == current.namespace else None
    ended_with_its_machine = holder.host == current.host and age_s > max(uptime_s, STALE_S)
    return False if ended_with_its_machine and acquired is not False else None


def refusal(folder: str, file: str, holder: Holder, running: bool | None, age_s: float) -> str | None:
    """Why the lock `file` of `folder` cannot be taken; None if its holder no longer runs."""
    if running is False:
        return None
    if running is None and age_s > STALE_S:
        return (
            f"{folder} is locked by another job ({holder}) without a heartbeat for {_duration(age_s)}: make sure "
            f"that it has ended, then remove {file}"
        )
    return f"another job is writing to {folder} ({holder}): wait for it or stop it first"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


@contextlib.contextmanager
def heartbeat(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` every `BEAT_S` seconds while the block runs; OSErrors, such as a full disk, are ignored."""
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
    """Whether an open file still has this name: holders remove their lock files."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(path: Path) -> tuple[int, bool | None]:
    """Open or create the lock file; also returns whether this process acquired `flock`, None without `flock`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        acquired: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            acquired = False
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                os.close(descriptor)
                raise
            acquired = None
        if _is_at(path, descriptor):
            return descriptor, acquired
        os.close(descriptor)


def _age_s(path: Path, descriptor: int) -> float:
    """Seconds since a file was written, by the clock of the file system: those of machines may differ."""
    probe, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
    try:
        os.write(probe, b"now")
        os.fsync(probe)
        return max(os.fstat(probe).st_mtime - os.fstat(descriptor).st_mtime, 0.0)
    finally:
        os.close(probe)
        Path(name).unlink(missing_ok=True)


def _check_free(path: Path, folder: str, descriptor: int, acquired: bool | None, current: Holder) -> None:
    """Check that an open lock file may be taken.

    Raises:
        UserError: another job holds it.
    """
    holder = read_holder(os.pread(descriptor, 4096, 0))
    if holder is None:  # just created
        if acquired is False:
            raise UserError(f"another job is writing to {folder}: wait for it or stop it first")
        return
    age_s = _age_s(path, descriptor)
    running = is_running(holder, current, acquired, age_s, uptime_s())
    if message := refusal(folder, str(path), holder, running, age_s):
        raise UserError(message)


def _write(descriptor: int, content: bytes) -> None:
    os.pwrite(descriptor, content, 0)  # in place, so that it is never empty and never another job's file
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)


@contextlib.contextmanager
def lock_file(path: Path, folder: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, then remove it; messages call what it protects `folder`.

    Raises:
        UserError: another job holds it.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    current = this_process()
    descriptor, acquired = _open(path)
    try:
        _check_free(path, folder, descriptor, acquired, current)
        try:
            _write(descriptor, current.beating())
            with heartbeat(lambda: _write(descriptor, current.beating())):
                yield
        finally:
            if _is_at(path, descriptor):
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
