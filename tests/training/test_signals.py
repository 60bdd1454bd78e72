import os
import signal

import pytest

from training.signals import SignalHandler, exit_status


def test_the_first_signal_is_recorded_and_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with SignalHandler() as interruption:
        assert interruption.signal == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interruption.signal == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before


def test_ctrl_c_twice_does_not_wait() -> None:
    with SignalHandler() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_only_ctrl_c_is_not_requeued() -> None:
    assert [exit_status(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == [75, 75, 130]
