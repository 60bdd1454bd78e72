"""The list that docs/sources.md writes for a dataset in another layout is read by the shard job."""

import json
from pathlib import Path

import pytest

from pipeline.shards.sources import list_sources, open_data
from tests.docs.documents import DOCS, fenced


def test_a_list_for_another_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").mkdir()
    templates = {"78687": "Holding [something] next to [something]", "42326": "Turning [something] upside down"}
    rows = [{"id": name, "template": text} for name, text in templates.items()]
    (tmp_path / "labels" / "train.json").write_text(json.dumps(rows))
    (program,) = fenced(DOCS / "sources.md", "python")
    exec(compile(program, "docs/sources.md", "exec"), {"__name__": "documented"})
    sources = [(source.path, source.key, source.class_name) for source in list_sources(open_data("train.txt")).sources]
    assert sources == [
        ("20bn-something-something-v2/78687.webm", "78687", "Holding something next to something"),
        ("20bn-something-something-v2/42326.webm", "42326", "Turning something upside down"),
    ]
