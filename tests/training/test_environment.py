"""Variables that would change a run are refused by name; all that Accelerate reads are known."""

import fnmatch
import os
import re
from collections.abc import Mapping
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from pipeline.settings import UserError
from training.backbone.numerics import NUMERICS, hidden_settings, pin_float32, refuse_hidden_settings
from training.environment import ACCELERATE, FSDP, SHARDS, of_training
from training.launch import resolve

ROOT = Path(__file__).parents[2]
HARMLESS = {
    "ACCELERATE_CONFIG_DS_FIELDS": "of DeepSpeed",
    "ACCELERATE_DEEPSPEED_*": "of DeepSpeed",
    "ACCELERATE_GRADIENT_CLIPPING": "of DeepSpeed",
    "ACCELERATE_FP8_*": "of the precision fp8",
    "ACCELERATE_DYNAMO_*": "of ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "of ACCELERATE_USE_SAGEMAKER",
    "ACCELERATE_ALLOW_CP_STANDALONE": "of ACCELERATE_USE_PARALLELISM_CONFIG",
    "PARALLELISM_CONFIG_*": "of ACCELERATE_USE_PARALLELISM_CONFIG",
    "MEGATRON_LM_*": "of ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_DOWNCAST_BF16": "of TPUs",
    "ACCELERATE_IN_TPU_POD": "of TPUs",
    "ACCELERATE_USE_CPU": "device",
    "ACCELERATE_CPU_AFFINITY": "threads",
    "ACCELERATE_BYPASS_DEVICE_MAP": "models over several devices",
    "ACCELERATE_INIT_INCLUDE_BUFFERS": "models over several devices",
    "ACCELERATE_DEBUG_*": "messages",
    "ACCELERATE_ENABLE_RICH": "messages",
    "ACCELERATE_LOG_LEVEL": "messages",
    "ACCELERATE_NUM_PROCESSES": "of Jupyter",
    "FSDP_STATE_DICT_TYPE": "Accelerate's checkpoints, which are not used",
    "FSDP_RESHARD_AFTER_FORWARD": "memory",
    "FSDP_OFFLOAD_PARAMS": "memory",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "memory",
    "FSDP_MIN_NUM_PARAMS": "of another way to wrap",
    **dict.fromkeys(
        ("FSDP_SHARDING_STRATEGY", "FSDP_USE_ORIG_PARAMS", "FSDP_SYNC_MODULE_STATES", "FSDP_*_PREFETCH"), "of FSDP 1"
    ),
}


def read_by_accelerate() -> set[str]:
    """Names of environment variables in Accelerate's sources."""
    name = re.compile(r"\"((?:ACCELERATE|FSDP|MEGATRON_LM|PARALLELISM_CONFIG)_[A-Z0-9_]+)\"")
    files = (path for path in Path(accelerate.__file__).parent.rglob("*.py") if "test_utils" not in path.parts)
    return {result for path in files for result in name.findall(path.read_text())}


def test_every_variable_that_accelerate_reads_is_refused_or_known_to_be_harmless() -> None:
    refused, read = {variable.name for variable in ACCELERATE + FSDP}, read_by_accelerate()
    assert refused <= read
    assert {name for name in read - refused if not any(fnmatch.fnmatch(name, known) for known in HARMLESS)} == set()


def launched(name: str) -> dict[str, str]:
    """What `accelerate launch` puts into the environment for a launch file."""
    options = launch_command_parser().parse_args(["--config_file", f"configs/accelerate/{name}.yaml", "program.py"])
    return added(prepare_multi_gpu_env(resolve(options)))


def added(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}


@pytest.mark.parametrize("name", ["gpus8", "nodes2", "fsdp2", "cpu"])
def test_our_launch_files_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    environment = launched(name)
    assert hidden_settings(environment, of_training(environment)) == []
    assert ("FSDP_VERSION" in environment) == (name == "fsdp2")


@pytest.mark.parametrize(
    ("name", "value", "clause"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "= 4: set --train.micro_batch_size instead"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "= fp16: set --train.precision instead"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "= INDUCTOR: set --train.compile true instead"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "= true: start with one of the launch files in configs/accelerate/"),
        ("NVIDIA_TF32_OVERRIDE", "1", "= 1: unset it"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "= BF16: unset it"),
    ],
)
def test_what_would_change_a_result_is_refused_by_name(name: str, value: str, clause: str) -> None:
    environment = {name: value, "RANK": "0", "RAY_ADDRESS": "head:6379", "OMP_NUM_THREADS": "8", "FSDP_VERSION": "1"}
    with pytest.raises(UserError, match=re.escape(f"would change the result: {name} {clause}")):
        refuse_hidden_settings(environment, of_training(environment))
    (variable,) = (variable for variable in NUMERICS + ACCELERATE if variable.name == name)
    refuse_hidden_settings(environment | {name: variable.allowed[-1]}, of_training(environment))


def test_other_ways_to_shard_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    environment = launched("fsdp2")
    for name, value in (("FSDP_VERSION", "1"), ("FSDP_AUTO_WRAP_POLICY", "NO_WRAP"), ("FSDP_IGNORED_MODULES", ".*fc1")):
        (result,) = hidden_settings(environment | {name: value}, of_training(environment))
        assert result.startswith(f"{name} = {value}: ")
    bare = hidden_settings({SHARDS: "true"}, FSDP)
    assert [clause.split(":")[0] for clause in bare] == [
        "FSDP_VERSION is not set", "FSDP_AUTO_WRAP_POLICY is not set", "FSDP_TRANSFORMER_CLS_TO_WRAP is not set"
    ]  # fmt: skip


def test_float32_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 does
    pin_float32()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"  # type: ignore[attr-defined]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(UserError, match="NVIDIA_TF32_OVERRIDE = 1: unset it"):
        pin_float32()
