"""What the GPU benchmarks need, from pyproject.toml, with the standard library alone."""

import re
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("reader", "dali", "train", "eval")
"""Extras of the project that the GPU benchmarks run."""
NOT_RUN = frozenset({"ffmpeg-python", "imageio-ffmpeg", "webdataset"})
"""Requirements of these extras that they do not run."""
STAGE_ONLY = frozenset({"nvidia-dali-cuda130", "scipy", "simplejpeg", "tensorboard", "pytest", "hypothesis"})
"""Requirements without which some of the stages can run."""
OF_TESTS = ("pytest", "hypothesis")
_MODULES = {"nvidia-dali-cuda130": "nvidia.dali", "pillow": "PIL", "pyyaml": "yaml"}


def of_gpu_benchmarks() -> list[str]:
    """Names of the packages, torch among them, FAISS not."""
    lists = dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", PYPROJECT.read_text(), re.MULTILINE | re.DOTALL))
    names = [name for key in ("dependencies", *EXTRAS) for name in re.findall(r'"([\w-]+)(?:\[[^"]*)?"', lists[key])]
    return [*dict.fromkeys(name for name in names if name not in {"tcore-pipeline", *NOT_RUN}), *OF_TESTS]


def module_of(name: str) -> str:
    """The module that a package provides."""
    return _MODULES.get(name, name.replace("-", "_"))
