import pytest

from benchmarks.demo import Stages
from pipeline.settings import UserError


def test_stages_show_their_command_and_stop_at_the_first_failure(capfd: pytest.CaptureFixture[str]) -> None:
    stages = Stages()
    stages.run("a good one", "python", "-c", "print('hello')")
    assert "a good one" in stages.seconds
    with pytest.raises(UserError, match=r"stopped at 'a bad one' \(status 3\)"):
        stages.run("a bad one", "python", "-c", "raise SystemExit(3)")
    message = capfd.readouterr().out
    assert "== a good one\n$ python -c" in message
    assert "hello" in message
