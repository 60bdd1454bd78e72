"""Programs that the tests start and interrupt."""

import signal
import subprocess
import time


def heed_ctrl_c() -> None:
    """For `preexec_fn`: Ctrl-C ends the program, even if the tests run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def left_in_session(session: int, patience_s: float = 20.0) -> list[str]:
    """Processes of a session that are still alive after `patience_s` seconds, as `ps` shows them."""
    deadline = time.monotonic() + patience_s
    while True:
        listed = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True)
        alive = [line for line in listed.stdout.splitlines() if not line.startswith("Z")]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.1)
