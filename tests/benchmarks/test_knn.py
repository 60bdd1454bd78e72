import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.knn import FEATURES, IMAGENET, KnnBenchmark, beside_cpu, main, make_features
from benchmarks.result import UNAVAILABLE
from indexing.engines import gpu_count


def test_result_has_the_ratio_the_memory_and_the_growth(tmp_path: Path) -> None:
    out = tmp_path / "knn.json"
    main(KnnBenchmark(out=out, rows=2000, width=16, block=200, rounds=3, budgets=(0.6,)))
    result = json.loads(out.read_text())
    assert result["host_queries_per_second"] > result["queries_per_second"] > 0
    assert len(result["of_the_floor_each"]) == 3
    assert min(result["of_the_floor_each"]) <= result["of_the_floor"] <= max(result["of_the_floor_each"])
    assert 0 < result["peak_memory_gb_by_budget"]["0.6"] < 0.6
    assert list(result["microseconds_a_query_by_rows"]) == ["500", "1000", "2000"]
    seconds = result["microseconds_a_query_by_rows"]["2000"] / 1e6 / 2000 * IMAGENET**2
    assert result["imagenet_hours"] == pytest.approx(seconds / 3600)
    assert result["faiss"]


def test_neighbours_are_compared_with_those_of_the_cpu(tmp_path: Path) -> None:
    command = KnnBenchmark(rows=1001, width=16, block=100, rounds=11)
    features = make_features(command.rows, command.width)
    (tmp_path / FEATURES).parent.mkdir()
    np.save(tmp_path / FEATURES, features)
    figures, _ = beside_cpu(command, tmp_path, features, "cpu")
    assert figures["agreement_with_cpu"] == 1
    rate = figures["queries_per_second"]
    assert figures["imagenet_gpu_seconds"] == pytest.approx(IMAGENET / rate * IMAGENET / 1001)


def test_a_missing_gpu_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU that FAISS can use")
    assert main(KnnBenchmark(device="gpu", out=tmp_path / "knn.json")) == UNAVAILABLE
    assert "FAISS finds no GPU" in capsys.readouterr().out
    assert not (tmp_path / "knn.json").exists()


@pytest.mark.gpu
def test_a_small_search_on_the_gpu_is_measured(tmp_path: Path) -> None:
    if not gpu_count():
        pytest.skip("needs an NVIDIA GPU and the GPU wheel of FAISS")
    out = tmp_path / "knn.json"
    assert main(KnnBenchmark(device="gpu", out=out, rows=5000, width=64, block=500, rounds=2)) == 0
    assert json.loads(out.read_text())["agreement_with_cpu"] > 0.999
