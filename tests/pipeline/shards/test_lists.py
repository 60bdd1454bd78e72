from collections import Counter
from collections.abc import Iterator

import pytest

from pipeline.settings import UserError
from pipeline.shards.lists import read_rows


def rows(*lines: str, name: str = "list.txt") -> list[tuple[object, ...]]:
    """Name, class and part of each input."""
    result = read_rows(iter([f"{line}\n" for line in lines]), name, lambda path: False, False, Counter())
    return [(row.name, row.class_name, row.cut) for row in result]


@pytest.mark.parametrize("text", ["a b.mp4", "it's.mp4", "'a'.mp4", "profile x.mp4", "files/a.mp4", "\udcff.mp4"])
def test_paths_without_quotes_stay(text: str) -> None:
    assert rows(text) == [(text, "", None)]


@pytest.mark.parametrize("line", ["a b/c d.mp4 17", "a b/c d.mp4,17", "a b/c d.mp4; 17 ", "a b/c d.mp4\t17"])
def test_a_number_behind_a_path_is_its_class(line: str) -> None:
    assert rows(line) == [("a b/c d.mp4", "17", None)]
    assert rows(line, name="train.csv") == [("a b/c d.mp4", "17", None)]


def test_concat_lists_cut_their_files() -> None:
    lines = ["ffconcat version 1.0", "file 'a.mp4'", "inpoint 00:01:02.5", "outpoint 70s", "file 'a.mp4'", "inpoint 90"]
    assert rows(*lines, "file 'b.mp4'", "outpoint 1500ms", "duration 3", "file 'c.mp4'") == [
        ("a.mp4", "", (62500, 70000)),
        ("a.mp4", "", (90000, None)),
        ("b.mp4", "", (0, 1500)),
        ("c.mp4", "", None),
    ]
    with pytest.raises(UserError, match=r"list\.txt, line 1: 'inpoint 2' follows no file"):
        rows("inpoint 2")
    with pytest.raises(UserError, match=r"line 3: the end, 1 s, is not after the start, 2 s"):
        rows("file 'a.mp4'", "inpoint 2", "outpoint 1")


def test_the_first_line_tells_a_table_from_a_list() -> None:
    assert rows("path\tclass\tstart\tend", "a b.mp4\tX\t1\t2.5") == [("a b.mp4", "X", (1000, 2500))]
    assert rows("path", "a.mp4") == [("a.mp4", "", None)]
    assert rows("path/a.mp4") == [("path/a.mp4", "", None)]
    assert rows(f"{'a' * 200_000}.mp4") == [(f"{'a' * 200_000}.mp4", "", None)]
    with pytest.raises(UserError, match=r"more than two columns; .* such as path<tab>class<tab>start<tab>end"):
        rows("a.mp4\tX\t1\t2.5")
    with pytest.raises(UserError, match=r"clips\.csv has no column of files; allowed are path, file, "):
        rows("url,label", "http://x,run", name="clips.csv")


def test_lists_are_read_one_line_at_a_time() -> None:
    def endless(first: str, line: str) -> Iterator[str]:
        yield first
        while True:
            yield line

    for first, line in (("a.mp4\n", "a.mp4\n"), ("path,start\n", "a.mp4,1\n"), ("[\n", '{"path": "a.mp4"},\n')):
        name = "list.json" if first == "[\n" else "list.txt"
        result = read_rows(endless(first, line), name, lambda path: False, False, Counter())
        assert [next(result).name for _ in range(10)] == ["a.mp4"] * 10
