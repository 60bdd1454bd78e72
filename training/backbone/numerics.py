"""Float32 as float32: what PyTorch and its libraries read from the environment and would compute with less.

A result is what the options say: a variable that would change it by more than rounding is refused by name, unless it
says what the program does anyway.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from pipeline.settings import UserError


class Variable(NamedTuple):
    """A variable that would change a result."""

    name: str
    allowed: tuple[str, ...]
    """Values, in lower case, that change nothing."""
    instead: str
    """What to do."""
    unset: str = ""
    """What stands for a variable that is not set."""


NUMERICS = (
    # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE only sets a default, which `pin_float32` overrides
    Variable("NVIDIA_TF32_OVERRIDE", ("", "0"), "unset it"),
    Variable("ONEDNN_DEFAULT_FPMATH_MODE", ("", "strict"), "unset it"),
    Variable("DNNL_DEFAULT_FPMATH_MODE", ("", "strict"), "unset it"),
    Variable("TRITON_F32_DEFAULT", ("", "ieee"), "unset it"),
    Variable("TORCHINDUCTOR_USE_FAST_MATH", ("", "0"), "unset it"),
    Variable("TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG", ("", "0"), "unset it"),
)
"""Read by PyTorch's libraries, in every program that runs a model."""


def hidden_settings(environment: Mapping[str, str], variables: Sequence[Variable]) -> list[str]:
    """A clause for each variable that would change a result: its name and value, and what to do."""
    result = []
    for variable in variables:
        value = environment.get(variable.name, variable.unset)
        if value.lower() not in variable.allowed:
            set_to = f" = {value}" if variable.name in environment else " is not set"
            result.append(f"{variable.name}{set_to}: {variable.instead}")
    return result


def refuse_hidden_settings(environment: Mapping[str, str], variables: Sequence[Variable] = NUMERICS) -> None:
    """Make sure that the environment changes no result.

    Raises:
        UserError: names each variable that would.
    """
    if result := hidden_settings(environment, variables):
        raise UserError(
            f"the environment, or the launcher's flags and launch file, would change the result: {'; '.join(result)}"
        )


def pin_float32() -> None:
    """Let float32 be float32 in matrix products and convolutions: no TF32, whatever the environment says.

    Raises:
        UserError: a variable that PyTorch cannot overrule asks for less.
    """
    refuse_hidden_settings(os.environ)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
