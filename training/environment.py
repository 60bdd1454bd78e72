"""Settings that are not ours: what Accelerate, PyTorch and its libraries read from the environment.

A run is what its options say. A variable that would change weights, features or scores by more than rounding is refused
by name, unless it says what the program does anyway. Accelerate's launcher turns its flags and its launch file, the
default one in the home folder included, into such variables, so that they are refused here too. Left alone are those
of ranks and addresses, devices, threads, memory and logs. Ray's variables reach no pixel of a shard: what runs in its
workers is told everything by the job, and features are computed behind the same checks.
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

SHARDS = "ACCELERATE_USE_FSDP"
_OFF = ("", "0", "false", "no", "off", "n", "f")
_LAUNCH_FILES = "start with one of the launch files in configs/accelerate/"
ACCELERATE = (
    Variable("ACCELERATE_MIXED_PRECISION", ("", "no"), "set --train.precision instead"),
    Variable("ACCELERATE_DYNAMO_BACKEND", ("", "no"), "set --train.compile true instead"),
    Variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", ("", "1"), "set --train.micro_batch_size instead"),
    Variable("ACCELERATE_USE_DEEPSPEED", _OFF, _LAUNCH_FILES),
    Variable("ACCELERATE_USE_MEGATRON_LM", _OFF, _LAUNCH_FILES),
    Variable("ACCELERATE_USE_PARALLELIZM_CONFIG", _OFF, _LAUNCH_FILES),
    Variable("ACCELERATE_USE_SAGEMAKER", _OFF, _LAUNCH_FILES),
    Variable(SHARDS, (*_OFF, "true"), "true or false"),
    Variable("ACCELERATE_TORCH_DEVICE", ("",), "choose devices with CUDA_VISIBLE_DEVICES"),
)
"""Read by Accelerate in every run; set by its launcher."""

_FSDP_FILE = "start with configs/accelerate/fsdp2.yaml or a copy with other numbers of processes"
FSDP = (
    Variable("FSDP_VERSION", ("2",), _FSDP_FILE, unset="1"),
    Variable("FSDP_AUTO_WRAP_POLICY", ("transformer_based_wrap",), _FSDP_FILE, unset="no_wrap"),
    Variable("FSDP_TRANSFORMER_CLS_TO_WRAP", ("block",), _FSDP_FILE),
    Variable("FSDP_IGNORED_MODULES", ("",), "unset it: their gradients would differ between ranks"),
    Variable("FSDP_CPU_RAM_EFFICIENT_LOADING", _OFF, _FSDP_FILE),
    Variable("FSDP_ACTIVATION_CHECKPOINTING", _OFF, "set --train.recompute full instead"),
)
"""Read by Accelerate if `SHARDS` is true."""


def hidden_settings(environment: Mapping[str, str], variables: Sequence[Variable]) -> list[str]:
    """A clause for each variable that would change a result: its name and value, and what to do."""
    result = []
    for variable in variables:
        value = environment.get(variable.name, variable.unset)
        if value.lower() not in variable.allowed:
            set_to = f" = {value}" if variable.name in environment else " is not set"
            result.append(f"{variable.name}{set_to}: {variable.instead}")
    return result


def of_training(environment: Mapping[str, str]) -> tuple[Variable, ...]:
    """The variables that a training run must not follow."""
    sharded = environment.get(SHARDS, "").lower() == "true"
    return NUMERICS + ACCELERATE + (FSDP if sharded else ())


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
