"""The choice between GPU and CPU, the same for training, features and evaluation."""

import os
from collections.abc import Mapping
from typing import Literal

import torch

from pipeline.gpus import refuse_unusable_gpu


def default_device(environment: Mapping[str, str] = os.environ) -> Literal["cuda", "cpu"]:
    """`cuda` if PyTorch finds a GPU, else `cpu`.

    Raises:
        UserError: there is an NVIDIA GPU that PyTorch cannot use, for instance because the driver is too old, and the
            environment does not ask for the CPU.
    """
    if torch.cuda.is_available():
        return "cuda"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # says why
        refuse_unusable_gpu(f"PyTorch {torch.__version__}", environment, str(error).partition(". ")[0])
    return "cpu"
