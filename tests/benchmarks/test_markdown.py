import pytest

from benchmarks.markdown import bullets, count, duration, number, paragraph, size, table


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.0123, "0.012"), (8, "8"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (2.5e7, "25 x 10^6")],
)
def test_numbers(value: float, said: str) -> None:
    assert number(value) == said


def test_sizes_and_durations() -> None:
    assert [size(value) for value in (12, 1500, 94.6e9, 2.5e12)] == ["12 B", "1.50 kB", "94.6 GB", "2.50 TB"]
    assert [duration(hours) for hours in (15.84, 0.5, 0.001)] == ["15.8 h", "30 min", "3.60 s"]
    assert (count(1, "GPU"), count(1024, "GPU")) == ("1 GPU", "1,024 GPUs")


def test_text_is_wrapped_whatever_its_indent() -> None:
    words = " ".join(["word"] * 60)
    assert paragraph(words.replace(" ", "\n      ", 1)).split() == words.split()
    assert max(map(len, paragraph(words).splitlines())) <= 120
    first, second = bullets([words]).splitlines()[:2]
    assert first.startswith("- word")
    assert second.startswith("  word")


def test_tables() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert table(["a", "b"], [["1|2", ""]]).splitlines()[-1] == r"| 1\|2 |  |"
