"""NVIDIA GPUs of this machine, as the system shows them, whether or not a library can use them."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.settings import UserError

DEVICES = Path("/dev")
_ASK_S = 30


def cpu_requested(environment: Mapping[str, str]) -> bool:
    """Whether the environment asks for the CPU: it hides all GPUs, or is of `use_cpu` in a launch file.

    CUDA ignores the devices after the first invalid one, so `-1` and an empty list hide all.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and not re.match(r"\s*(\d|GPU-|MIG-)", visible)
    return hidden or environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t")


def has_nvidia_gpu() -> bool:
    """Whether this process sees an NVIDIA GPU: its device file, or what nvidia-smi lists.

    /proc/driver/nvidia is not consulted: containers without a GPU see that of their host.
    """
    if any(re.fullmatch(r"nvidia\d+", path.name) for path in DEVICES.glob("nvidia*")):
        return True
    if (program := shutil.which("nvidia-smi")) is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_ASK_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.startswith("GPU ")


def refuse_unusable_gpu(library: str, environment: Mapping[str, str], why: str = "") -> None:
    """Check that no NVIDIA GPU is left idle because `library` finds none, unless the environment asks for the CPU.

    Raises:
        UserError: there is one; `why` is the library's reason.
    """
    if not cpu_requested(environment) and has_nvidia_gpu():
        raise UserError(
            f"this machine has an NVIDIA GPU that {library} cannot use{f' ({why})' if why else ''}: update the driver "
            "or install packages for its version of CUDA (`nvidia-smi` shows it), or hide the GPU with "
            "CUDA_VISIBLE_DEVICES=-1 to compute on the CPU"
        )
