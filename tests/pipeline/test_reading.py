from pathlib import Path

import pytest

from pipeline.reading import read_json, read_json_lines, reading
from pipeline.settings import UserError


class SomeLibrarysError(Exception):
    """Not derived from a common exception."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SomeLibrarysError("bad\nheader."), "f is not a table (bad header). Make it anew"),
        (ZeroDivisionError(), "f is not a table (ZeroDivisionError). Make it anew"),
        (OSError("no magic"), "f is not a table (no magic). Make it anew"),
        (PermissionError(13, "Permission denied"), "cannot read f: Permission denied. Make it anew"),
        (UserError("in our words"), "in our words"),
    ],
)
def test_any_exception_of_a_library_is_one_sentence(error: Exception, message: str) -> None:
    with pytest.raises(UserError) as raised, reading("f", "a table", "Make it anew"):
        raise error
    assert str(raised.value) == message


def test_a_program_that_is_stopped_is_not_a_damaged_file() -> None:
    with pytest.raises(KeyboardInterrupt), reading("f", "a table"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{", b"[" * 100_000, b"null"])
def test_json_that_is_no_object_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(UserError, match=r"card\.json is not valid JSON \(.*\)\. Make it anew$"):
        read_json(tmp_path / "card.json", "Make it anew")
    assert read_json_lines(tmp_path / "card.json") == []


def test_lines_end_at_an_incomplete_one(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert read_json_lines(tmp_path / "lines") == [{"step": 1}, {"step": 2}]
    with pytest.raises(UserError, match=r"cannot read .*: No such file or directory"):
        read_json_lines(tmp_path / "nowhere")
