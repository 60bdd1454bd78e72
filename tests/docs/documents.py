"""What the documents of the project show: programs, patches, commands, printed sentences, links."""

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
    """The lines that are set off by four blanks, with continued lines joined."""
    text = path.read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def commands(path: Path, containing: str) -> list[list[str]]:
    """Words behind the word `containing` in each indented command that has options; comments are left out."""
    shown = [line for line in indented(path) if " --" in line and f" {containing} " in line]
    return [words[words.index(containing) + 1 :] for words in (shlex.split(line, comments=True) for line in shown)]


def make_calls(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Target and variables of each indented `make` command."""
    calls = []
    for line in indented(path):
        if line.startswith("make "):
            target, *given = shlex.split(line, comments=True)[1:]
            calls.append((target, dict(word.split("=", 1) for word in given)))
    return calls
