"""`python -m benchmarks.demo_data OUT`."""

import time
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from benchmarks.demo_data.generate import DemoSettings, generate
from pipeline.settings import THREAD_LIMIT, Command, run_command


class DemoDataCommand(Command, DemoSettings):  # type: ignore[misc]  # both configurations agree
    """Make demo data: training clips and images, and held-out clips with exact ground truth."""

    program: ClassVar[str] = "python -m benchmarks.demo_data"

    out: CliPositionalArg[Path]
    """Directory to fill: empty, new, or holding the same dataset."""
    workers: int | None = Field(None, ge=1, le=THREAD_LIMIT)
    """Processes; default: all cores. The data does not depend on it."""


def main(command: DemoDataCommand) -> None:
    """Make the data and say what was made."""
    start = time.monotonic()
    settings = DemoSettings(**command.model_dump(include=set(DemoSettings.model_fields)))
    summary = generate(settings, command.out, command.workers)
    size = sum(file.stat().st_size for file in command.out.rglob("*") if file.is_file())
    print(f"{summary}; {size / 1e6:.1f} MB, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    run_command(DemoDataCommand, main)
