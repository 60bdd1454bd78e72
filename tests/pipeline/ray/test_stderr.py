import os

import pytest

from pipeline.ray.stderr import without_lines
from pipeline.settings import UserError


def test_stderr_is_filtered_also_when_the_block_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with without_lines(b"chatter", b"gossip"):
            os.write(2, b"first\nsome chatter of C++\ngossip\nlast\n")
            assert capfd.readouterr().err == ""
            raise UserError("it failed")

    with pytest.raises(UserError):
        fail()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "first\nlast\nafterwards\n"
