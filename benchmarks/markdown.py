"""Numbers, paragraphs and tables in Markdown."""

import textwrap
from collections.abc import Iterable, Sequence

NONE = "-"
_WIDTH = 120


def number(value: float) -> str:
    """About three digits, thousands separated."""
    if value >= 1e7:
        exponent = 9 if value >= 1e9 else 6
        return f"{value / 10**exponent:.3g} x 10^{exponent}"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"


def count(things: int, name: str) -> str:
    """A number of things."""
    return f"{things:,} {name}{'' if things == 1 else 's'}"


def size(value: float) -> str:
    """Bytes with a decimal prefix."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{number(value)} B"


def duration(hours: float) -> str:
    """Hours, minutes or seconds."""
    if hours >= 1:
        return f"{number(hours)} h"
    return f"{number(60 * hours)} min" if 60 * hours >= 1 else f"{number(3600 * hours)} s"


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
