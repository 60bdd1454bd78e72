"""Graceful shutdown: after a signal the step is finished, a checkpoint written, and the exit status tells the cause."""

import signal
from types import FrameType, TracebackType

REQUEUE_STATUS = 75
"""Exit status after SIGTERM or SIGUSR1: "try again" (EX_TEMPFAIL), for schedulers that requeue by status."""
INTERRUPTED_STATUS = 128 + signal.SIGINT
"""Exit status after Ctrl-C."""
_WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class SignalHandler:
    """Context that records SIGTERM, SIGUSR1 and Ctrl-C; a second signal that is Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal = 0
        """Number of the last signal received, 0 for none."""

    def __enter__(self) -> "SignalHandler":
        self._before = {number: signal.signal(number, self._record) for number in _WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal:
            raise KeyboardInterrupt
        self.signal = number


def exit_status(number: int) -> int:
    """Exit status of a run that a signal ended."""
    return INTERRUPTED_STATUS if number == signal.SIGINT else REQUEUE_STATUS
