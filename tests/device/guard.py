"""Pytest plugin (`-p tests.device.guard`): gives PyTorch the device of `guard.cpp`, before anything imports PyTorch."""

import ctypes
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "TESTS_DEVICE_GUARD"
"""Environment variable with the path of the library; without it, the plugin does nothing."""


def build_guard(folder: Path) -> Path:
    """Compile `guard.cpp` into `folder` with g++; returns the library."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch, library, source = Path(spec.origin).parent, folder / "guard.so", Path(__file__).with_name("guard.cpp")
    options = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{torch}/include", str(source), "-o", str(library)]
    linked = [f"-L{torch}/lib", f"-Wl,-rpath,{torch}/lib", "-ltorch_cpu", "-lc10"]
    subprocess.run(["g++", *options, *linked], check=True, timeout=300)
    return library


if VARIABLE in os.environ:
    ctypes.CDLL(os.environ[VARIABLE])
