from pathlib import Path

import pytest

from benchmarks.scale.__main__ import main
from benchmarks.scale.figures import read_figures
from benchmarks.scale.options import ClusterSettings, ScaleCommand
from benchmarks.scale.page import write_page
from pipeline.settings import UserError, parse_command
from tests.benchmarks.scale.results import write_results


def page_of(command: ScaleCommand) -> str:
    return write_page(command, read_figures(command.results, command.assumed))


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    assert Path("docs/scale.md").read_text() == page_of(ScaleCommand()), "run `make scale`"


def test_the_first_limits_by_hand(tmp_path: Path) -> None:
    cluster = ClusterSettings(nodes=4, gpus=32, cores=32, network_gb=1000.0)
    page = page_of(ScaleCommand(results=write_results(tmp_path), cluster=cluster))
    text = " ".join(page.split())
    on_cores, on_gpus = (
        text.partition(f"decoding on {where}.** First limit at the paper's batch: ")[2]
        for where in ("CPU cores", "GPUs")
    )
    assert on_cores.startswith("CPU cores that decode and make views, from 1 GPU on (Kinetics, ViT-S/16).")
    assert on_gpus.startswith("nothing up to 1,024 GPUs. With 64 clips on every GPU: the same.")


def test_the_command_writes_the_page_and_prints_the_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ScaleCommand(results=write_results(tmp_path), out=tmp_path / "page.md")
    main(command)
    assert command.out.read_text() == page_of(command)
    printed = capsys.readouterr().out
    assert printed.startswith("- **Pre-training, decoding on CPU cores.**")
    assert printed.endswith(f"written to {command.out}\n")


def test_machines_must_be_alike() -> None:
    with pytest.raises(UserError, match="gpus = 64 cannot be shared out evenly over nodes = 3"):
        parse_command(ScaleCommand, ["--cluster.nodes", "3"])
