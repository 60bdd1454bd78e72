"""What the GPU benchmarks need, from pyproject.toml, with the standard library alone."""

import re
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
OTHER_PROGRAMS = frozenset({"ffmpeg-python", "imageio-ffmpeg", "jinja2", "matplotlib", "ray"})
"""Requirements of shards, reports and Ray jobs, which the GPU benchmarks do not run."""
STAGE_ONLY = frozenset({"nvidia-dali-cuda130", "scipy", "simplejpeg", "tensorboard", "psutil", "pytest", "hypothesis"})
"""Requirements without which some of the stages can run."""
OF_TESTS = ("pytest", "hypothesis")
_MODULES = {"nvidia-dali-cuda130": "nvidia.dali", "pillow": "PIL", "pyyaml": "yaml"}


def of_gpu_benchmarks() -> list[str]:
    """Names of the packages, torch among them, FAISS not."""
    result = re.search(r"^dependencies = \[(.*?)^\]", PYPROJECT.read_text(), re.MULTILINE | re.DOTALL)
    assert result is not None
    names = re.findall(r'"([\w-]+)(?:\[[^"]*)?"', result[1])
    return [*(name for name in names if name not in OTHER_PROGRAMS), *OF_TESTS]


def module_of(name: str) -> str:
    """The module that a package provides."""
    return _MODULES.get(name, name.replace("-", "_"))
