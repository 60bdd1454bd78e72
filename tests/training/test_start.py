"""Whether all requested ranks are present."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from training.start import missing_compiler, missing_ranks, number_of_machines, unusable_tracker


@pytest.mark.parametrize(
    ("environment", "ranks", "expected"),
    [
        ({}, 1, None),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node1"}, 16, None),
        ({"WORLD_SIZE": "1", "MASTER_ADDR": "node1"}, 1, None),
        ({"PMI_SIZE": "2", "WORLD_SIZE": "16"}, 16, None),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "node1"}, 1, "WORLD_SIZE = 2, but this run has 1 rank"),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, 1, "OMPI_COMM_WORLD_SIZE = 8, but this run has 1 rank"),
        ({"MASTER_ADDR": "node1"}, 1, "MASTER_ADDR = node1 asks for other ranks, but this process was started alone"),
    ],
)
def test_missing_ranks_are_noticed(environment: dict[str, str], ranks: int, expected: str | None) -> None:
    result = missing_ranks(environment, ranks)
    assert (result and result.partition(": start all ranks together")[0]) == expected


def test_machines_are_counted() -> None:
    assert number_of_machines({}, 1) == 1
    assert number_of_machines({"LOCAL_WORLD_SIZE": "8"}, 16) == 2


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path)}
    assert "needs g++ on the PATH: install it or set CXX" in str(missing_compiler(nothing, "cpu"))
    assert "needs icpx on the PATH" in str(missing_compiler({**nothing, "CXX": "icpx"}, "cpu"))
    expected = (
        "gcc or clang on the PATH: install it or set CC" if find_spec("triton") else "Triton: run `pip install tri"
    )
    assert expected in str(missing_compiler(nothing, "cuda"))
    (tmp_path / "g++").touch(mode=0o755)
    assert missing_compiler(nothing, "cpu") is None
    assert "needs g++ on the PATH" in str(missing_compiler({**nothing, "CXX": ""}, "cpu")), "set, but to nothing"


def test_unusable_trackers_are_named_with_those_that_can_be_used() -> None:
    assert unusable_tracker(["wandb", "tensorboard"], ["tensorboard", "wandb"]) is None
    assert unusable_tracker([], []) is None
    message = "train.trackers has mlflow, which is not installed: here are tensorboard, wandb"
    assert unusable_tracker(["wandb", "mlflow"], ["wandb", "tensorboard"]) == message
    unknown = unusable_tracker(["tensorbord"], ["tensorboard"])
    assert str(unknown).startswith(
        "train.trackers has tensorbord, which Accelerate does not know: here are tensorboard of aim, "
    )
