"""The JSON file that a benchmark leaves: figures together with the machine and the versions they were seen on."""

import json
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
    "pyarrow",
)
NOT_HERE = 3
"""Exit status of a benchmark for which this machine lacks something; its last line says what."""


def processor() -> str:
    """Name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(path: Path, figures: dict[str, Any]) -> None:
    """Write `figures` with machine and versions as JSON.

    Raises:
        UserError: a file at `path` is not of this function.
    """
    machine = {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    content = {**figures, "machine": machine, "versions": installed_versions(PACKAGES)}
    if path.is_file() and path.stat().st_size:
        try:
            own = read_json(path).keys() >= {"machine", "versions"}
        except UserError:
            own = False
        if not own:
            raise UserError(f"{path} is not a result of a benchmark and is not replaced: give another --out")
    write_bytes(path, as_json(content))


def write_page(path: Path, page: str) -> None:
    """Write a document, in place of one with the same heading.

    Raises:
        UserError: a file at `path` has another first line.
    """
    if path.is_file() and (recorded := path.read_bytes()) and recorded.splitlines()[0] != page.encode().splitlines()[0]:
        raise UserError(f"{path} is not this page as it was written before and is not replaced: give another name")
    write_bytes(path, page.encode())


def read_result(path: Path, command: str) -> dict[str, Any] | None:
    """Content of a result file, which `command` writes; None if it is not there.

    Raises:
        UserError: it is no JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): write it again with `{command}`, or remove it") from error
    return content


def print_table(rows: list[tuple[str, str]], title: str) -> None:
    """Print (name, value) rows below a title."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}\n" + "-" * len(title))
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
