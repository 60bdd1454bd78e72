"""`make wheelhouse`: wheels with which `python -m benchmarks.gpu` runs in a Python without a network that has torch.

The versions are those installed here, with all that they need except torch and what only torch needs. Wheels lose the
extension modules of other Python versions and C headers, and their RECORD is shortened to match, so that pip installs
them.
"""

import csv
import importlib.metadata
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from pydantic import Field

from benchmarks.requirements import of_gpu_benchmarks
from benchmarks.result import print_table
from pipeline.files import write_bytes
from pipeline.settings import Command, UserError, run_command
from pipeline.versions import installed_versions

THERE = "torch"
FAISS_STAGE = ("psutil", "ray[data]")
"""What the stage of the neighbour search needs beside FAISS."""
README, REQUIREMENTS = "README.txt", "requirements.txt"
INSTALL = """\
Wheels of the GPU benchmarks, for Python {python} on Linux x86-64 with torch installed. Without a network:

    python3 -m venv --system-site-packages gpu
    gpu/bin/python -m pip install --no-index --no-deps --find-links {folder} -r {folder}/requirements.txt
    gpu/bin/python -m benchmarks.gpu          # in the folder of the project

Where venv is missing: python3 -m pip install --target gpu ... and PYTHONPATH=gpu python3 -m benchmarks.gpu.
"""
LEFT_OUT = """
May be left out: what the machine has already; scipy (evaluation), simplejpeg (the reader on CPU cores), tensorboard
(training run), pytest and hypothesis (tests); nvidia_dali_cuda130 with the wheels that only it needs (the other
nvidia_*, nvtx, gast, astunparse, makefun, optree, libcst): without it, reader, training run, features and tests do not
run, but the training steps and their profile do. Take the names out of requirements.txt as well."""
_DEAD = re.compile(r"\.cpython-(\d+)t?-x86_64-linux-gnu\.so$|/include/")
_PLATFORMS = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 40)))


class WheelhouseCommand(Command):
    """Fill a folder with the wheels from which the GPU benchmarks install without a network."""

    program: ClassVar[str] = "python -m benchmarks.wheelhouse"

    out: Path = Path("wheelhouse")
    """Folder for the wheels; those of an earlier run are removed."""
    python: str = Field("3.12", pattern=r"^3\.1[0-3]$")
    """Version of the Python that will install them."""
    faiss: bool = False
    """Take along what the neighbour search needs: Ray, and FAISS's GPU wheel with the CUDA 12 libraries."""


def closure(requirements: Iterable[Requirement], python: str) -> dict[str, str]:
    """Versions installed here of some packages and all that they need there, without torch and what torch needs.

    Raises:
        UserError: one is not installed.
    """
    target = {"python_version": python, "python_full_version": f"{python}.0"}
    versions: dict[str, str] = {}
    pending, seen = list(requirements), set()
    while pending:
        requirement = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name == THERE or (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(f"{name} is not installed here: run `make setup` first") from error
        versions[name] = package.version
        needed = map(Requirement, package.requires or ())
        pending += [other for other in needed if _applies(other.marker, target, extras)]
    return versions


def _applies(marker: Marker | None, target: dict[str, str], extras: frozenset[str]) -> bool:
    return marker is None or any(marker.evaluate({**target, "extra": extra}) for extra in ("", *extras))


def download(arguments: list[str], folder: Path, python: str) -> None:
    """Download wheels for a Python version of Linux x86-64.

    Raises:
        UserError: pip fails, and has said why.
    """
    platforms = [f"--platform={platform}_x86_64" for platform in _PLATFORMS]
    options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp"]
    pip = [sys.executable, "-m", "pip", "download", *options, f"--python-version={python}", f"--dest={folder}"]
    if subprocess.run([*pip, *platforms, *arguments]).returncode:
        raise UserError(f"pip could not download the wheels for Python {python}; it says why above")


def trim(wheel: Path, target: Path, python: str) -> None:
    """Write a wheel without the extension modules of other Python versions and without C headers."""
    own = python.replace(".", "")
    with zipfile.ZipFile(wheel) as source:
        dead = any(_is_dead(name, own) for name in source.namelist())
    if not dead:
        wheel.replace(target)
        return
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as result:
        for member in source.infolist():
            if _is_dead(member.filename, own):
                continue
            content = source.read(member)
            if member.filename.endswith(".dist-info/RECORD"):
                rows = [row for row in csv.reader(io.StringIO(content.decode())) if not _is_dead(row[0], own)]
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(rows)
                content = text.getvalue().encode()
            result.writestr(member, content)


def _is_dead(name: str, python: str) -> bool:
    """Whether no Python of version `python`, as in 312, uses a file of this name."""
    match = _DEAD.search(name)
    return match is not None and match[1] != python


def main(command: WheelhouseCommand) -> None:
    """Download, trim, and say what there is."""
    needed = [Requirement(name) for name in (*of_gpu_benchmarks(), *(FAISS_STAGE if command.faiss else ()))]
    versions = closure(needed, command.python)
    command.out.mkdir(parents=True, exist_ok=True)
    for wheel in command.out.glob("*.whl"):
        wheel.unlink()
    with tempfile.TemporaryDirectory(dir=command.out) as temporary:
        folder = Path(temporary)
        pins = [f"{name}=={version}" for name, version in sorted(versions.items())]
        download(["--no-deps", *pins], folder, command.python)
        if command.faiss:
            (folder / "pins").write_text("\n".join(pins))
            (version,) = set(installed_versions(("faiss-cpu", "faiss-gpu")).values())
            faiss = f"faiss-gpu=={version}"
            download([f"--constraint={folder / 'pins'}", faiss], folder, command.python)
        before = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
        for wheel in folder.glob("*.whl"):
            trim(wheel, command.out / wheel.name, command.python)
    wheels = sorted(command.out.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
    names = (parse_wheel_filename(wheel.name)[:2] for wheel in wheels)
    write_bytes(command.out / REQUIREMENTS, "".join(f"{name}=={version}\n" for name, version in sorted(names)).encode())
    write_bytes(command.out / README, INSTALL.format(python=command.python, folder=command.out.name).encode())
    sizes = {wheel: wheel.stat().st_size / 1e6 for wheel in wheels}
    rows = [(wheel.name.split("-")[0], f"{sizes[wheel]:.0f} MB") for wheel in wheels[:10]]
    total = f"{sum(sizes.values()):.0f} MB in {len(wheels)} wheels ({before / 1e6:.0f} MB before trimming)"
    print_table([*rows, ("all", total), ("install as in", str(command.out / README))], "Wheelhouse, largest first")
    print(LEFT_OUT)


if __name__ == "__main__":
    run_command(WheelhouseCommand, main)
