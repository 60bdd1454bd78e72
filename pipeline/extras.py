"""Which optional packages ("extras") a program needs, and the message if one is missing.

The base installation reads datasets; everything else is an extra in pyproject.toml.
"""

import sys

EXTRAS_OF_MODULE = {
    "accelerate": ("train",),
    "faiss": ("knn",),
    "ffmpeg": ("shards", "eval", "train"),
    "huggingface_hub": ("hub",),
    "imageio_ffmpeg": ("shards", "eval", "train"),
    "jinja2": ("report", "eval", "knn", "train"),
    "matplotlib": ("report", "eval", "knn", "train"),
    "nvidia": ("dali", "knn", "train"),
    "psutil": ("shards", "knn"),
    "ray": ("shards", "knn"),
    "s3fs": ("s3",),
    "safetensors": ("train", "eval", "knn"),
    "scipy": ("eval", "train"),
    "simplejpeg": ("reader", "dali", "knn", "train"),
    "tensorboard": ("train",),
    "torch": ("reader", "dali", "eval", "knn", "train"),
    "webdataset": ("reader", "dali", "knn", "train"),
}
"""Extras that bring a module, the smallest first."""
EXTRA_OF_PROGRAM = {
    "evaluation": "eval",
    "indexing": "knn",
    "pipeline.preview": "report",
    "pipeline.publish": "hub",
    "pipeline.shards": "shards",
    "training": "train",
}
"""The extra that a program needs, by the package that it is in."""


def running_program(argv: list[str]) -> str:
    """The module that Python was started with: `evaluation` of `-m evaluation`, `training.pretrain` of its file."""
    if "-m" in argv[:-1]:
        return argv[argv.index("-m") + 1]
    scripts = [word for word in argv[1:] if word.endswith(".py")]
    return ".".join(scripts[0].removesuffix(".py").split("/")[-2:]) if scripts else ""


def missing_extra(error: ImportError, program: str = "") -> str | None:
    """What to install if an optional package is missing, in a sentence; None if it is another module."""
    module = (error.name or "").partition(".")[0]
    extras = EXTRAS_OF_MODULE.get(module)
    if extras is None or module in sys.modules:
        return None
    own = [extra for package, extra in EXTRA_OF_PROGRAM.items() if f"{program}.".startswith(f"{package}.")]
    extra = own[0] if own and own[0] in extras else extras[0]
    return (
        f"{program or 'this'} needs the Python package {module}, which is not installed: install the extra {extra} "
        f"(pip install '.[{extra}]' in the folder of tcore-pipeline; `make setup` installs all extras)"
    )
