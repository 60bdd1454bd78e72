import importlib.util
import sys

import pytest
from packaging.requirements import Requirement

from benchmarks.requirements import EXTRAS, NOT_RUN, OF_TESTS, STAGE_ONLY, module_of, of_gpu_benchmarks


def test_they_are_those_of_the_project() -> None:
    from importlib.metadata import requires

    lines = [Requirement(line) for line in requires("tcore-pipeline") or ()]
    declared = {
        line.name for line in lines if not line.marker or any(line.marker.evaluate({"extra": name}) for name in EXTRAS)
    }
    assert set(of_gpu_benchmarks()) == (declared - NOT_RUN - {"tcore-pipeline"}) | set(OF_TESTS)
    assert set(of_gpu_benchmarks()) >= STAGE_ONLY


@pytest.mark.parametrize("name", of_gpu_benchmarks())
def test_each_provides_its_module(name: str) -> None:
    assert module_of(name) in sys.modules or importlib.util.find_spec(module_of(name))
