import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.wheelhouse import closure, trim
from pipeline.settings import UserError


def test_what_packages_need_is_taken_along_but_not_torch() -> None:
    versions = closure([Requirement("accelerate"), Requirement("torch")], "3.12")
    assert {"accelerate", "numpy", "huggingface-hub", "tqdm"} <= versions.keys()
    assert not {"torch", "triton", "networkx"} & versions.keys()
    assert not any(name.startswith("nvidia-cu") for name in versions)


def test_extras_and_markers_of_the_other_python_count() -> None:
    assert "pandas" in closure([Requirement("ray[data]")], "3.12")
    assert "pandas" not in closure([Requirement("ray")], "3.12")
    assert "exceptiongroup" not in closure([Requirement("pytest")], "3.12")


def test_a_package_that_is_not_here_is_named() -> None:
    with pytest.raises(UserError, match="no-such-package is not installed here"):
        closure([Requirement("no_such_package")], "3.12")


def test_a_trimmed_wheel_installs(tmp_path: Path) -> None:
    own = f"{sys.version_info.major}{sys.version_info.minor}"
    files = {
        "thing/__init__.py": "VALUE = 5\n",
        f"thing/fast.cpython-{own}-x86_64-linux-gnu.so": "this one",
        "thing/fast.cpython-39-x86_64-linux-gnu.so": "another",
        "thing/include/thing.h": "#define THING",
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "thing-1.0.dist-info/RECORD"])
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**files, "thing-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, content)
    trimmed = tmp_path / "trimmed" / wheel.name
    trimmed.parent.mkdir()
    trim(wheel, trimmed, f"{own[0]}.{own[1:]}")
    target = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(trimmed)], check=True, timeout=60)
    assert sorted(path.name for path in (target / "thing").iterdir()) == [
        "__init__.py",
        f"fast.cpython-{own}-x86_64-linux-gnu.so",
    ]
