"""The documents of the project, and the programs and commands that they show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))


def fenced(path: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def indented(path: Path) -> list[str]:
    """The lines of indented blocks, without the indentation and with continued lines joined."""
    text = path.read_text().replace("\\\n", " ")
    return [line[4:] for line in text.splitlines() if line.startswith("    ")]


def commands(path: Path) -> list[list[str]]:
    """The words of each complete command in an indented block, without comments."""
    shown = [line for line in indented(path) if re.match(r"(make|python -m|accelerate launch) ", line)]
    return [shlex.split(line, comments=True) for line in shown if " ... " not in line and "[--" not in line]
