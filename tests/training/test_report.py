import json
import math
from pathlib import Path
from typing import Any

import pytest

from training.metrics import METRICS
from training.report import never_fatal, run_charts, write_run_report


def line(step: int, **values: float) -> dict[str, float]:
    return {"step": step, **{name.replace("__", "/"): value for name, value in values.items()}}


def test_curves_have_the_points_that_were_logged() -> None:
    metrics = [line(1, loss__total=3.0, loss__cls=1.0, schedule__lr=0.1), line(2, schedule__lr=0.2)]
    metrics += [line(3, loss__total=math.nan), line(4, loss__total=2.0, loss__cls=0.5)]
    scores: list[dict[str, Any]] = [
        {"step": 2, "scores": {"J&F-Mean": 0.5, "knn": {"k10": 0.25}}},
        {"step": 4, "scores": None},
        {"torn": 1},
    ]
    total, parts, rate, probes = run_charts(metrics, scores)
    assert total.lines == {"total": ([1, 4], [3, 2])}
    assert parts.lines == {"cls": ([1, 4], [1, 0.5])}
    assert rate.lines == {"learning rate": ([1, 2], [0.1, 0.2])}
    assert probes.lines == {"J&F-Mean": ([2], [0.5]), "knn.k10": ([2], [0.25])}
    assert run_charts([], []) == []


def test_a_run_without_a_step_and_a_long_one_have_a_report(tmp_path: Path) -> None:
    config = {"datasets": [{"dataset_hash": "abc123"}], "init": None, "train": {"seed": 7}}
    write_run_report(tmp_path, config, 10)
    page = (tmp_path / "report.html").read_text()
    assert "After 0 of 10 steps, over" in page
    assert "abc123" in page
    assert not (tmp_path / "report.png").exists()
    lines = [json.dumps(line(step, loss__total=1 / step)) for step in range(1, 20_001)]
    (tmp_path / METRICS).write_text("\n".join(lines))
    (tmp_path / "scores.jsonl").write_text(json.dumps({"step": 5, "scores": {"<i>": 0.5}}))
    write_run_report(tmp_path, config, 20_000, ("best.safetensors", "scores.jsonl"))
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert len(page) < 100_000
    assert "<i>" not in page
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_that_fails_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / METRICS).mkdir()
    with never_fatal("report.html"):
        write_run_report(tmp_path / "file", {}, 1)
        (tmp_path / "report.html").mkdir()
        (tmp_path / "report.html" / "mine").touch()
        write_run_report(tmp_path, {}, 1)
    assert capsys.readouterr().out.startswith("note: no report.html: ")
