"""Starts `placement.py` in a process of its own: PyTorch must find the pretended device when it is imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.device.guard import VARIABLE, build_guard

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, *([pytest.mark.gpu] if torch.cuda.is_available() else [])]


def test_no_operation_mixes_devices_and_a_step_waits_once(tmp_path: Path) -> None:
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        if torch.version.cuda:
            pytest.skip("without a GPU, this needs a PyTorch that was built without CUDA")
        if shutil.which("g++") is None:
            pytest.skip("without a GPU, this needs g++")
        environment[VARIABLE] = str(build_guard(tmp_path))
    plugins = ["-p", "tests.device.guard", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *plugins, "--tb=short", f"--basetemp={tmp_path}/runs"]
    done = subprocess.run(
        [*command, "tests/device/placement.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
