"""Every error message that docs/troubleshooting.md quotes is one that a program prints."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.documents import DOCS, ROOT, indented

ANYTHING = "\0"
MORE = " ..."
LEAST, LEAST_SHARE = 12, 1 / 8
"""Minimum number of characters, and share of a quoted line, of fixed text: `{name}: {reason}` would fit every line."""
Pieces = list[str]


def templates_of_python(path: Path) -> Iterator[str]:
    """The strings of a module, with `ANYTHING` for the values of f-strings; adjacent strings are joined."""
    text = re.sub(r'"\s*\n\s*f?"', "", path.read_text())
    for string in re.findall(r'"((?:[^"\\\n]|\\.)+)"', text):
        yield re.sub(r"\{[^{}]+\}", ANYTHING, string)


def templates_of_make(path: Path) -> Iterator[str]:
    """The messages of a Makefile."""
    for message in re.findall(r'echo "(?:error: )?(.*?)" >&2', path.read_text()):
        while (filled := re.sub(r"\$+\(\(?[^()]*\)?\)", ANYTHING, message)) != message:
            message = filled
        yield message


@functools.cache
def templates() -> list[Pieces]:
    """The fixed pieces of all messages."""
    packages = ("pipeline", "training", "indexing", "evaluation")
    files = [path for package in packages for path in ROOT.glob(f"{package}/**/*.py")]
    texts = [text for path in files for text in templates_of_python(path)]
    return [text.split(ANYTHING) for text in [*texts, *templates_of_make(ROOT / "Makefile")] if len(text) >= LEAST]


def fits(line: str, template: Pieces) -> bool:
    """Whether a quoted line is a filled-in template; one that ends in ` ...` may stop after any of its fixed pieces."""
    shown = line.removeprefix("error: ").removesuffix(MORE)
    for count in range(1, len(template) + 1) if line.endswith(MORE) else [len(template)]:
        pieces = [*template[: count - 1], template[count - 1].rstrip()]
        if not all(piece in shown for piece in pieces):
            return False
        if len("".join(pieces)) >= max(LEAST, LEAST_SHARE * len(shown)):
            pattern = ".+".join(map(re.escape, pieces))
            if re.fullmatch(pattern, shown) or (count < len(template) and re.fullmatch(f"{pattern} ?.+", shown)):
                return True
    return False


@pytest.mark.parametrize("line", indented(DOCS / "troubleshooting.md"))
def test_line_is_printed_by_a_program(line: str) -> None:
    assert any(fits(line, template) for template in templates())


def test_an_invented_line_does_not_fit() -> None:
    for line in ("error: the data folder /data/k400 is gone", "error: a: b", "error: no dataset is there ..."):
        assert not any(fits(line, template) for template in templates())
