"""CITATION.cff, the model card and the package name the same paper and the same version."""

import re
from typing import Any

import yaml

from tests.docs.documents import ROOT
from training.model_card import CITATION


def test_the_citation_is_that_of_the_model_cards() -> None:
    cff: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["cff-version"] == "1.2.0"
    project = (ROOT / "pyproject.toml").read_text()
    for key, name in (("title", "name"), ("version", "version"), ("license", "license")):
        assert re.search(rf'^{name} = "(.*)"', project, re.MULTILINE)[1] == cff[key]  # type: ignore[index]
    paper = cff["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    bibtex = " ".join(CITATION.split())
    assert paper["title"] in bibtex
    for part in (authors, f"{paper['start']}--{paper['end']}", str(paper["year"]), paper["collection-title"]):
        assert part in bibtex
