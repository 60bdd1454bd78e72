"""Every line that docs/troubleshooting.md quotes is one that a program prints."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.documents import DOCS, ROOT, indented

DOCUMENT = DOCS / "troubleshooting.md"
ANYTHING = "\0"
MORE = " ..."
LEAST, LEAST_SHARE = 12, 1 / 4
"""So many characters, and so much of a quoted line, must be fixed text: `{name}: {reason}` would fit every line."""


def templates_of_python(path: Path) -> Iterator[str]:
    """The texts of a program, with `ANYTHING` for what is filled in."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    pieces = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else ANYTHING for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
            yield node.value


def templates_of_make(path: Path) -> Iterator[str]:
    """What a Makefile echoes."""
    for message in re.findall(r'echo "(?:error: )?(.*?)" >&2', path.read_text()):
        while (filled := re.sub(r"\$+\(\(?[^()]*\)?\)", ANYTHING, message)) != message:
            message = filled
        yield message


def templates() -> list[str]:
    """The texts of all programs."""
    files = [
        path
        for package in ("pipeline", "training", "indexing", "evaluation")
        for path in ROOT.glob(f"{package}/**/*.py")
    ]
    return [text for path in files for text in templates_of_python(path)] + [*templates_of_make(ROOT / "Makefile")]


TEMPLATES = templates()
QUOTED = list(indented(DOCUMENT))


def fits(line: str, template: str) -> bool:
    """Whether a quoted line is a template filled in; one that ends in ` ...` may stop behind any of its fixed parts."""
    shown = line.removeprefix("error: ").removesuffix(MORE)
    fixed = template.split(ANYTHING)
    cuts = range(1, len(fixed) + 1) if line.endswith(MORE) else [len(fixed)]
    for parts in cuts:
        if len("".join(fixed[:parts])) >= max(LEAST, LEAST_SHARE * len(shown)):
            pattern = ".+".join(map(re.escape, [*fixed[: parts - 1], fixed[parts - 1].rstrip()]))
            if re.fullmatch(pattern, shown) or (parts < len(fixed) and re.fullmatch(f"{pattern} ?.+", shown)):
                return True
    return False


@pytest.mark.parametrize("line", QUOTED)
def test_line_is_printed_by_a_program(line: str) -> None:
    assert any(fits(line, template) for template in TEMPLATES)


def test_there_are_many_and_what_no_program_says_does_not_fit() -> None:
    assert len(QUOTED) > 40
    invented = ("error: the data folder /data/k400 is gone", "error: a: b", "error: no dataset is there ...")
    assert not [line for line in invented if any(fits(line, template) for template in TEMPLATES)]
