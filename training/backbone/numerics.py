"""Full float32 precision, whatever the environment asks of PyTorch and its libraries.

Only options may change a result: an environment variable that would change one by more than rounding is refused by
name, unless its value has no effect.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from pipeline.settings import UserError


class Variable(NamedTuple):
    """An environment variable that can change a result."""

    name: str
    allowed: tuple[str, ...]
    """Values, in lower case, that have no effect."""
    instead: str
    """What to do instead of setting it."""
    unset: str = ""
    """The value that an unset variable is equivalent to."""


NUMERICS = (
    # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE only sets a default, which `pin_float32` overrides
    Variable("NVIDIA_TF32_OVERRIDE", ("", "0"), "unset it"),
    Variable("ONEDNN_DEFAULT_FPMATH_MODE", ("", "strict"), "unset it"),
    Variable("DNNL_DEFAULT_FPMATH_MODE", ("", "strict"), "unset it"),
    Variable("TRITON_F32_DEFAULT", ("", "ieee"), "unset it"),
    Variable("TORCHINDUCTOR_USE_FAST_MATH", ("", "0"), "unset it"),
    Variable("TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG", ("", "0"), "unset it"),
)
"""Variables that PyTorch's libraries read in every program that runs a model."""


def hidden_settings(environment: Mapping[str, str], variables: Sequence[Variable]) -> list[str]:
    """A clause for each variable whose value would change a result: its name and value, and what to do."""
    result = []
    for variable in variables:
        value = environment.get(variable.name, variable.unset)
        if value.lower() not in variable.allowed:
            set_to = f" = {value}" if variable.name in environment else " is not set"
            result.append(f"{variable.name}{set_to}: {variable.instead}")
    return result


def refuse_hidden_settings(environment: Mapping[str, str], variables: Sequence[Variable] = NUMERICS) -> None:
    """Check that the environment changes no result.

    Raises:
        UserError: it would; names the variables.
    """
    if result := hidden_settings(environment, variables):
        raise UserError(
            "the environment, or the flags and launch file of the launcher, would change the result: "
            f"{'; '.join(result)}"
        )


def pin_float32() -> None:
    """Compute float32 matrix products and convolutions in full precision, without TF32.

    Raises:
        UserError: an environment variable that PyTorch cannot overrule asks for less.
    """
    refuse_hidden_settings(os.environ)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
