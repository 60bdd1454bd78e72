import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from benchmarks.evidence_page import CURVES, curves, ordering_table, page, score_table, table_of, write_page
from tests.benchmarks.test_evidence_variants import SCORES

ROOT = Path(__file__).parents[2]


def result() -> dict[str, Any]:
    """A result file's content with the scores of the variants' tests."""
    runs: dict[str, list[dict[str, Any]]] = {
        name: [{"scores": {"J&F-Mean": score, "mIoU": 0.1, "PCK@0.2": 0.2}} for score in scores]
        for name, scores in SCORES.items()
    }
    for name in runs.keys() - {"random"}:
        runs[name][0]["curve"] = [[10, 0.33], [20, runs[name][0]["scores"]["J&F-Mean"]]]
    settings = {"clips": 12, "sequences": 4, "steps": 20, "size": [160, 288]}
    return {"settings": settings, "machine": {"cpu": "abacus"}, "demo": {"runs": runs}}


def test_tables_hold_means_spreads_and_verdicts() -> None:
    table = table_of(result()["demo"]["runs"])
    assert "| past only | 43.0 ± 2.0 | 10.0 ± 0.0 | 20.0 ± 0.0 |" in score_table(table)
    assert [line.split(" | ")[0] for line in score_table(table).splitlines()[2:]] == [
        "| random weights",
        "| no auxiliary branch",
        "| past only",
        "| both, without squeeze",
        "| full",
    ]
    assert "| full > past only | +8.0 ± 1.3 | shows |" in ordering_table(table)
    assert "| both, without squeeze > no auxiliary branch | -6.0 ± 1.3 | is reversed |" in ordering_table(table)


def test_page_is_written_from_the_result_alone(tmp_path: Path) -> None:
    write_page(tmp_path / "evidence.md", result())
    text = (tmp_path / "evidence.md").read_text()
    assert text == page(result())
    assert "20 steps for each run on abacus" in text
    assert f"]({CURVES})" in text
    assert "## Real clips" not in text


def test_curves_name_the_trained_variants(tmp_path: Path) -> None:
    write_page(tmp_path / "evidence.md", result())
    drawn = ElementTree.parse(tmp_path / CURVES).getroot()
    named = {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"no auxiliary branch", "past only", "both, without squeeze", "full"} <= named
    assert "random weights" not in named


def test_the_committed_document_is_that_of_the_committed_results() -> None:
    content = json.loads((ROOT / "benchmarks/results/evidence.json").read_text())
    assert (ROOT / "docs/evidence.md").read_text() == page(content)
    assert (ROOT / "docs" / CURVES).read_text() == curves(content["demo"]["runs"])


def test_real_clips_have_a_section_of_their_own_with_the_variants_that_were_run() -> None:
    content = result()
    names = ("random", "no-auxiliary", "full")
    content["real"] = {"runs": {name: [{"scores": {"J&F-Mean": s}} for s in SCORES[name]] for name in names}}
    real = page(content).partition("## Real clips")[2]
    assert "| full | 51.0 ± 1.0 |\n" in real
    assert "past only" not in real
