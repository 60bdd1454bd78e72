"""Result files of benchmarks (figures with machine and versions), pages written from them, and printed tables."""

import os
import platform
from pathlib import Path
from typing import Any

from pipeline.files import as_json, write_bytes
from pipeline.reading import read_json
from pipeline.settings import UserError
from pipeline.versions import installed_versions

PACKAGES = (
    "tcore-pipeline",
    "torch",
    "triton",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "faiss-cpu",
    "faiss-gpu",
    "ray",
    "accelerate",
    "numpy",
    "pillow",
    "simplejpeg",
    "pyarrow",
)
UNAVAILABLE = 3
"""Exit status of a benchmark that cannot run on this machine; its last line is the reason."""


def processor() -> str:
    """Name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(path: Path, figures: dict[str, Any]) -> None:
    """Write `figures` with machine and versions as JSON.

    Raises:
        UserError: `path` is a file of another kind.
    """
    machine = {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    content = {**figures, "machine": machine, "versions": installed_versions(PACKAGES)}
    if path.is_file() and path.stat().st_size:
        try:
            own = read_json(path).keys() >= {"machine", "versions"}
        except UserError:
            own = False
        if not own:
            raise UserError(f"{path} is not a benchmark result and is not replaced: give another --out")
    write_bytes(path, as_json(content))


def write_page(path: Path, page: str) -> None:
    """Write a document, or replace one with the same heading.

    Raises:
        UserError: the file at `path` has another first line.
    """
    if path.is_file() and (recorded := path.read_bytes()) and recorded.splitlines()[0] != page.encode().splitlines()[0]:
        raise UserError(f"{path} is not an earlier version of this page and is not replaced: give another name")
    write_bytes(path, page.encode())


def read_result(path: Path, command: str) -> dict[str, Any] | None:
    """Content of a result file written by `command`; None if there is none.

    Raises:
        UserError: it is not JSON.
    """
    return read_json(path, f"Write it again with `{command}`, or remove it") if path.exists() else None


def report(path: Path, figures: dict[str, Any], rows: list[tuple[str, str]], title: str) -> None:
    """Write `figures` as a result file, and print (name, value) rows.

    Raises:
        UserError: `path` is a file of another kind.
    """
    write_result(path, figures)
    print_table([*rows, ("written to", str(path))], title)


def print_table(rows: list[tuple[str, str]], title: str) -> None:
    """Print (name, value) rows below a title."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}\n" + "-" * len(title))
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
