from benchmarks.markdown import bullets, number, paragraph, table


def test_numbers_have_two_digits() -> None:
    assert [number(value) for value in (0, 0.0123, 4.56, 12.5, 123456)] == ["0", "0.012", "4.6", "12", "120,000"]


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
