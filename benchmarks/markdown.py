"""Numbers, paragraphs and tables in Markdown."""

import math
import textwrap
from collections.abc import Iterable, Sequence

_WIDTH = 120


def number(value: float) -> str:
    """Two significant digits of a value that is not negative, thousands separated."""
    digits = 1 - math.floor(math.log10(value)) if value else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"


def _filled(text: str, first: str = "", others: str = "") -> str:
    words = " ".join(text.split())
    return textwrap.fill(
        words, _WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False, break_long_words=False
    )


def paragraph(text: str) -> str:
    """Text, in which line breaks and indents do not count, in lines that are not too long."""
    return _filled(text)


def bullets(texts: Iterable[str]) -> str:
    """A list of paragraphs."""
    return "\n".join(_filled(text, "- ", "  ") for text in texts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ((cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
