"""What the documents of the project show: programs, patches, commands, printed lines."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))


def fenced(path: Path, language: str) -> list[str]:
    """The blocks between ```language and ```."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def indented(path: Path) -> list[str]:
    """The lines that are set off by four blanks or more, with continued lines joined; the first four are left out."""
    text = path.read_text().replace("\\\n", " ")
    return [line[4:] for line in text.splitlines() if line.startswith("    ")]


def commands(path: Path) -> list[list[str]]:
    """Words of each complete command that is set off; comments are left out."""
    shown = [line for line in indented(path) if re.match(r"(make|python -m|accelerate launch) ", line)]
    return [shlex.split(line, comments=True) for line in shown if " ... " not in line and "[--" not in line]
