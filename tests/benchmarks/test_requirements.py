import importlib.util
import sys

import pytest
from packaging.requirements import Requirement

from benchmarks.requirements import OF_TESTS, OTHER_PROGRAMS, STAGE_ONLY, module_of, of_gpu_benchmarks


def test_they_are_those_of_the_project() -> None:
    from importlib.metadata import requires

    declared = {Requirement(line).name for line in requires("tcore-pipeline") or () if "extra ==" not in line}
    assert declared >= OTHER_PROGRAMS
    assert set(of_gpu_benchmarks()) == (declared - OTHER_PROGRAMS) | set(OF_TESTS)
    assert set(of_gpu_benchmarks()) >= STAGE_ONLY


@pytest.mark.parametrize("name", of_gpu_benchmarks())
def test_each_provides_its_module(name: str) -> None:
    assert module_of(name) in sys.modules or importlib.util.find_spec(module_of(name))
