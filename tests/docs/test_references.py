"""Links, files, make targets and options that the documents name exist."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.docs.documents import DOCUMENTS, ROOT
from tests.docs.test_commands import MODULES
from training.pretrain import PretrainCommand

OUTPUTS = {"benchmarks/results/gpu.json"}
"""Files that a program writes."""
FILE = re.compile(r"(?<![\w/.-])(?:benchmarks|configs|docs|evaluation|indexing|pipeline|tests|training)/[\w/.-]+\.\w+")
LINK = re.compile(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)")
TARGET = re.compile(r"`make ([a-z-]*[a-z])(?![\w*-])")
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
OPTION = re.compile(r"`(?:--)?((?:data|eval|frames|images|model|optimizer|schedule|search|train|triplets)(?:\.\w+)+)\b")


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def options(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of all options and sections."""
    names = set()
    for name, field in model.model_fields.items():
        names.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= options(field.annotation, f"{prefix}{name}.")
    return names


COMMANDS: list[type[BaseModel]] = [PretrainCommand, *MODULES.values()]
OPTIONS = {name for command in COMMANDS for name in options(command)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_references_exist(path: Path) -> None:
    text = path.read_text()
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists() and name not in OUTPUTS]
    missing += [name for name in TARGET.findall(text) if name not in TARGETS]
    missing += [name for name in OPTION.findall(text) if name not in OPTIONS]
    for link, anchor in LINK.findall(text):
        target = path.parent / link if link else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(f"{link}#{anchor}")
    assert missing == []
