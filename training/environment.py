"""Variables by which Accelerate would change a training run.

A run is what its options say. A variable that would change weights, features or scores by more than rounding is refused
by name, unless it says what the program does anyway. Accelerate's launcher turns its flags and its launch file, the
default one in the home folder included, into such variables, so that they are refused here too. Left alone are those
of ranks and addresses, devices, threads, memory and logs. Ray's variables reach no pixel of a shard: what runs in its
workers is told everything by the job, and features are computed behind the same checks.
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


def of_training(environment: Mapping[str, str]) -> tuple[Variable, ...]:
    """The variables that a training run must not follow."""
    sharded = environment.get(SHARDS, "").lower() == "true"
    return NUMERICS + ACCELERATE + (FSDP if sharded else ())
