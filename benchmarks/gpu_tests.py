"""`python -m benchmarks.gpu_tests`: run the tests marked `gpu` and write how they ended.

Test files that need a package which is not installed are counted apart: they say nothing about the GPU.
"""

from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.gpu_run import absent_package
from benchmarks.result import write_result
from pipeline.settings import Command, run_command


class GpuTests(Command):
    """Run the tests marked `gpu`."""

    program: ClassVar[str] = "python -m benchmarks.gpu_tests"

    out: Path = Path("gpu-tests.json")
    """Result file."""
    folder: Path = Path("tests")
    """Where test files are looked for."""


class Tally:
    """Counts how tests end; a plugin of pytest."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.skipped: list[str] = []
        self.failed: list[str] = []
        self.not_here: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test was set up, run or cleaned up after."""
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped.append(report.nodeid)
        elif report.when == "call":
            self.passed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was imported."""
        if report.failed:
            package = absent_package(report.longreprtext)
            (self.not_here if package else self.failed).append(f"{report.nodeid}{f': {package}' if package else ''}")


def main(command: GpuTests) -> int:
    """Run, write; returns 1 if a test failed."""
    files = [str(path) for path in sorted(command.folder.rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    tally = Tally()
    pytest.main(["-m", "gpu", "--continue-on-collection-errors", "-p", "no:cacheprovider", *files], plugins=[tally])
    write_result(command.out, vars(tally))
    return int(bool(tally.failed))


if __name__ == "__main__":
    run_command(GpuTests, main)
