"""Environment variables by which Accelerate would change a training run.

A run is defined by its options alone. A variable that would change weights, features or scores by more than rounding is
refused by name, unless it has no effect. Accelerate's launcher turns its flags and its launch file (the default one in
the home folder too) into such variables, so this covers them as well. Variables for ranks, addresses, devices, threads,
memory and logs are not checked.
"""

from collections.abc import Mapping

from training.backbone.numerics import NUMERICS, Variable

SHARDS = "ACCELERATE_USE_FSDP"
_OFF = ("", "0", "false", "no", "off", "n", "f")
_LAUNCH_FILES = "start with one of the launch files in configs/accelerate/"
ACCELERATE = (
    Variable("ACCELERATE_MIXED_PRECISION", ("", "no"), "set --train.precision instead"),
    Variable("ACCELERATE_DYNAMO_BACKEND", ("", "no"), "set --train.compile true instead"),
    Variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", ("", "1"), "set --train.micro_batch_size instead"),
    Variable("ACCELERATE_USE_DEEPSPEED", _OFF, _LAUNCH_FILES),
    Variable("ACCELERATE_USE_MEGATRON_LM", _OFF, _LAUNCH_FILES),
    Variable("ACCELERATE_USE_PARALLELISM_CONFIG", _OFF, _LAUNCH_FILES),
    Variable("ACCELERATE_USE_SAGEMAKER", _OFF, _LAUNCH_FILES),
    Variable(SHARDS, (*_OFF, "true"), "true or false"),
    Variable("ACCELERATE_TORCH_DEVICE", ("",), "choose devices with CUDA_VISIBLE_DEVICES"),
)
"""Variables that Accelerate reads in every run and its launcher sets."""

_FSDP_FILE = "start with configs/accelerate/fsdp2.yaml or a copy with other numbers of processes"
FSDP = (
    Variable("FSDP_VERSION", ("2",), _FSDP_FILE, unset="1"),
    Variable("FSDP_AUTO_WRAP_POLICY", ("transformer_based_wrap",), _FSDP_FILE, unset="no_wrap"),
    Variable("FSDP_TRANSFORMER_CLS_TO_WRAP", ("block",), _FSDP_FILE),
    Variable("FSDP_IGNORED_MODULES", ("",), "unset it: their gradients would differ between ranks"),
    Variable("FSDP_CPU_RAM_EFFICIENT_LOADING", _OFF, _FSDP_FILE),
    Variable("FSDP_ACTIVATION_CHECKPOINTING", _OFF, "set --train.recompute full instead"),
)
"""Variables that Accelerate reads if `SHARDS` is true."""


def of_training(environment: Mapping[str, str]) -> tuple[Variable, ...]:
    """The variables that must not change a training run."""
    sharded = environment.get(SHARDS, "").lower() == "true"
    return NUMERICS + ACCELERATE + (FSDP if sharded else ())
