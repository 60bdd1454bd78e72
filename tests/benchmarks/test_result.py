from pathlib import Path

import pytest

from benchmarks.result import write_page, write_result
from pipeline.settings import UserError


def test_results_and_pages_replace_their_own_kind_only(tmp_path: Path) -> None:
    for number in (1, 2):
        write_result(tmp_path / "r.json", {"number": number})
        write_page(tmp_path / "p.md", f"# Scale\n\n{number}\n")
    assert (tmp_path / "p.md").read_text() == "# Scale\n\n2\n"
    for name in ("r.json", "p.md"):
        (tmp_path / name).write_text("# My thesis\n")
    with pytest.raises(UserError, match=r"r\.json is not a benchmark result and is not replaced"):
        write_result(tmp_path / "r.json", {})
    with pytest.raises(UserError, match=r"p\.md is not an earlier version of this page and is not replaced"):
        write_page(tmp_path / "p.md", "# Scale\n")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"# My thesis\n"}
