"""Signals that end a run in order: the step is finished, a checkpoint written, and the exit status says what to do."""

import signal
from types import FrameType, TracebackType

REQUEUE_STATUS = 75
"""Exit status after SIGTERM or SIGUSR1: "try again" (EX_TEMPFAIL), for schedulers that requeue by status."""
INTERRUPTED_STATUS = 128 + signal.SIGINT
"""Exit status after Ctrl-C."""
_WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class SignalHandler:
    """Context in which the first SIGTERM, SIGUSR1 or Ctrl-C is only noted; Ctrl-C once more ends the run at once."""

    def __init__(self) -> None:
        self.signal = 0
        """Number of the signal that came, 0 for none; of several ranks the largest counts."""

    def __enter__(self) -> "SignalHandler":
        self._before = {number: signal.signal(number, self._note) for number in _WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal:
            raise KeyboardInterrupt
        self.signal = number


def exit_status(number: int) -> int:
    """Exit status of a run that was ended by the signal with this number."""
    return INTERRUPTED_STATUS if number == signal.SIGINT else REQUEUE_STATUS
