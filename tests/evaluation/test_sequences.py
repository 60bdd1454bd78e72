from pathlib import Path

import pytest

from evaluation.sequences import chosen_sequences, read_list
from pipeline.settings import UserError


@pytest.mark.parametrize(
    "text",
    ["dog\nwalk/two\n", "\ufeffdog\r\nwalk/two\r\n", "./dog/\n\n  walk//two/ \ndog\n"],
    ids=["plain", "bom", "find"],
)
def test_lists_of_windows_and_of_find_name_the_same_sequences(tmp_path: Path, text: str) -> None:
    (tmp_path / "val.txt").write_text(text, "utf-8")
    assert read_list(tmp_path / "val.txt") == ["dog", "walk/two"]


def test_a_list_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("dog\n", "utf-16")
    with pytest.raises(UserError, match=r"val\.txt is not UTF-8 text"):
        read_list(tmp_path / "val.txt")


def test_a_list_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    for name in ("train.txt", "._train.txt"):
        (tmp_path / name).write_text("\ufeff\n", "utf-8")
    with pytest.raises(UserError, match=r"val\.txt; lists that exist there: train$"):
        read_list(tmp_path / "val.txt")
    with pytest.raises(UserError, match=r"train\.txt is empty"):
        read_list(tmp_path / "train.txt")


def test_sequences_may_be_written_as_the_shell_completes_them(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    assert chosen_sequences(["dog/", "./dog"], tmp_path) == ["dog"]
    for name in ("cat", "..", "/", ""):
        with pytest.raises(UserError):
            chosen_sequences([name], tmp_path)
