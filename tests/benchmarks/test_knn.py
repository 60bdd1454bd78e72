import json
from pathlib import Path

import pytest

from benchmarks.knn import IMAGENET, KnnBenchmark, main


def test_result_has_the_ratio_the_memory_and_the_growth(tmp_path: Path) -> None:
    out = tmp_path / "knn.json"
    main(KnnBenchmark(out=out, rows=2000, width=16, block=200, rounds=3, budgets=(0.6,)))
    result = json.loads(out.read_text())
    assert result["queries_per_second"] > 0
    assert len(result["of_the_floor_each"]) == 3
    assert min(result["of_the_floor_each"]) <= result["of_the_floor"] <= max(result["of_the_floor_each"])
    assert 0 < result["peak_memory_gb_by_budget"]["0.6"] < 0.6
    assert list(result["microseconds_a_query_by_rows"]) == ["500", "1000", "2000"]
    seconds = result["microseconds_a_query_by_rows"]["2000"] / 1e6 / 2000 * IMAGENET**2
    assert result["imagenet_hours"] == pytest.approx(seconds / 3600)
    assert result["faiss"]
