from pathlib import Path

import pytest

from benchmarks.scale.figures import read_figures
from benchmarks.scale.limits import paper_runs
from benchmarks.scale.options import ClusterSettings, PriceSettings, ScaleCommand
from benchmarks.scale.stages import build_stages
from benchmarks.scale.tables import Case, gpu_counts, options_table, stage_table
from tests.benchmarks.scale.results import write_results


def case_of(folder: Path, **changes: object) -> Case:
    command = ScaleCommand(results=write_results(folder), **changes)  # type: ignore[arg-type]
    figures = read_figures(command.results, command.assumed)
    stages = build_stages(command.data, figures, command.cluster, 1e12)
    return Case(command, figures, stages, paper_runs(command.data, figures))


def cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_the_total_is_the_sum_of_the_table(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    money = {row[0]: float(row[-1].replace(",", "")) for row in cells(stage_table(case))}
    again = next(value for name, value in money.items() if "ImageNet" in name)  # it is needed twice
    assert case.total_price == pytest.approx(sum(money.values()) + again, rel=0.01)


def test_prices_are_linear(tmp_path: Path) -> None:
    once = case_of(tmp_path, prices=PriceSettings(core_hour=1, gpu_hour=2, tb_month=3))
    twice = case_of(tmp_path, prices=PriceSettings(core_hour=2, gpu_hour=4, tb_month=6))
    assert twice.total_price == pytest.approx(2 * once.total_price)
    assert once.price(10, 100) == 210


def test_gpu_counts_are_whole_machines_and_all() -> None:
    assert gpu_counts(ClusterSettings(nodes=8, gpus=64)) == {1, 2, 4, 8, 16, 32, 64}
    assert gpu_counts(ClusterSettings(nodes=3, gpus=18, cores=9)) == {1, 2, 4, 6, 12, 18}
    assert gpu_counts(ClusterSettings(nodes=1, gpus=1, cores=1)) == {1}


def test_every_option_is_in_the_table() -> None:
    names = {row[0].strip("`-") for row in cells(options_table(ScaleCommand()))}
    command = ScaleCommand()
    groups = {name: getattr(command, name) for name in ("data", "cluster", "prices", "assumed")}
    expected = {f"{group}.{name}" for group, settings in groups.items() for name in type(settings).model_fields}
    assert names == expected | {"clips_a_gpu"}
