import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_run import GpuBenchmark, check_tests, judge, run, run_stages, stage_environment
from benchmarks.gpu_stages import Stage
from benchmarks.result import UNAVAILABLE
from pipeline.settings import UserError


def test_without_a_gpu_it_ends_with_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="finds no NVIDIA GPU here"):
        run(GpuBenchmark())


def test_a_stage_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    good = 'import json, sys; json.dump({"images_per_second": 5.0}, open(sys.argv[1], "w"))'
    bad = f'{good}; raise SystemExit("it broke")'
    stages = [
        Stage(name, "features", ("-c", program, str(tmp_path / name)), 60, tmp_path / name)
        for name, program in (("bad", bad), ("absent", "import no_such_package"), ("good", good))
    ]
    bad_record, absent, good_record = run_stages(stages, tmp_path, time.monotonic() + 600, {})
    assert (bad_record["status"], bad_record["reason"]) == ("failed", "it broke")
    assert bad_record["figures"] == {"images_per_second": 5.0}, "results of a failed stage are kept"
    assert (absent["status"], absent["reason"]) == ("unavailable", "no_such_package is not installed")
    assert (good_record["status"], good_record["reason"]) == ("done", "")


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        ({"tests": 5, "failures": 0, "errors": 0, "skipped": 1}, "done"),
        ({"tests": 5, "failures": 0, "errors": 0, "skipped": 5}, "failed"),
        ({"tests": 0, "failures": 0, "errors": 0, "skipped": 0}, "failed"),
        ({}, "failed"),
    ],
)
def test_tests_of_which_none_passed_have_failed(figures: dict[str, Any], status: str) -> None:
    assert check_tests(figures)[0] == status


def test_the_result_is_written_after_each_stage(tmp_path: Path) -> None:
    stages = [Stage(name, "features", ("-c", ""), 60, tmp_path / "none") for name in ("one", "two")]
    records = run_stages(stages, tmp_path, time.monotonic() + 600, {})
    assert next(records)["name"] == "one", "a record comes before the next stage starts"


def test_stages_after_the_time_limit_are_skipped(tmp_path: Path) -> None:
    stage = Stage("one", "features", ("-c", f"open({str(tmp_path / 'ran')!r}, 'w')"), 60, tmp_path / "none")
    (record,) = run_stages([stage], tmp_path, time.monotonic() - 1, {})
    assert (record["status"], record["figures"]) == ("skipped", {})
    assert not (tmp_path / "ran").exists()


def test_scripts_find_the_packages_where_the_project_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert stage_environment(on_gpu=True)["PYTHONPATH"] == f"{Path(__file__).parents[2]}:/elsewhere"
    assert stage_environment(on_gpu=False)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in stage_environment(on_gpu=True)


def test_the_result_names_the_stages_that_were_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    assert run(GpuBenchmark(device="cpu", out=out, limit_s=1e-3)) == 0
    result = json.loads(out.read_text())
    assert {stage["status"] for stage in result["stages"]} == {"skipped"}
    assert result["device"] == "cpu"
    assert "torch" in result["versions"]
    printed = capsys.readouterr().out
    assert "Dry run on the CPU" in printed
    assert all(f"\n{stage['name']} " in printed for stage in result["stages"])


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, "all is well\n", ("done", "")),
        (None, "step 3\rstep 4\n", ("too slow", "step 3\nstep 4")),
        (1, "", ("failed", "exit status 1")),
        (2, "a\n\nerror: no such folder\n", ("failed", "a\nerror: no such folder")),
        (UNAVAILABLE, "looking\nFAISS finds no GPU\n", ("unavailable", "FAISS finds no GPU")),
        (1, "Traceback\nModuleNotFoundError: No module named 'ray'\n", ("unavailable", "ray is not installed")),
        (1, "/usr/bin/python3: No module named pytest\n", ("unavailable", "pytest is not installed")),
        (1, "No module named 'pipeline.gone'", ("failed", "No module named 'pipeline.gone'")),
        (1, "No module named 'ray'\nRuntimeError: x", ("failed", "No module named 'ray'\nRuntimeError: x")),
    ],
)
def test_how_a_program_ended(status: int | None, output: str, expected: tuple[str, str]) -> None:
    assert judge(status, output) == expected
