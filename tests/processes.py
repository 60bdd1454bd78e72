"""Programs that the tests start and interrupt."""

import signal
import time
from pathlib import Path


def heed_ctrl_c() -> None:
    """For `preexec_fn`: Ctrl-C ends the program, even if the tests run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_session(session: int) -> dict[int, str]:
    """Command lines of the processes of a session that are alive, by their numbers."""
    result = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of_process = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of_process) == session and state != "Z":
                result[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue  # it has just ended
    return result


def left_in_session(session: int, timeout_s: float = 20.0) -> list[str]:
    """Processes of a session that are still alive after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while (alive := list(in_session(session).values())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive
