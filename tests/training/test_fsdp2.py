"""`configs/accelerate/fsdp2.yaml` on two CPU ranks (gloo): Accelerate shards, and the run is that of DDP."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from tests.training import forks
from tests.training.forks import Fork, rank_environments, words
from tests.training.test_environment import launched
from tests.training.test_pretrain import assert_same_run, final_state, losses, small
from training.checkpoint import checkpoints
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "train.epochs": 1,
    "train.steps_per_epoch": 4,
    "train.checkpoint_every": 2,
    "model.backbone.drop_path": 0,
    "train.trackers": "[]",
    "train.report": False,
}


def train_sharded(arguments: list[str]) -> None:
    """Train as `training/pretrain.py` does, where Accelerate shards on the CPU as it does on accelerators."""
    initialize = AcceleratorState.__init__

    def initialize_sharded(
        self: AcceleratorState, *values: object, fsdp_plugin: object = None, **named: object
    ) -> None:
        initialize(self, *values, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    prepare = Trainer.__init__

    def prepare_and_check(self: Trainer, *values: object) -> None:
        prepare(self, *values)  # type: ignore[arg-type]
        assert self.accelerator.is_fsdp2
        parameters = list(self.core.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in parameters)
        assert {id(p) for group in self.optimizer.param_groups for p in group["params"]} <= set(map(id, parameters))

    sharding = mock.patch.object(AcceleratorState, "__init__", initialize_sharded)
    with sharding, mock.patch.object(Trainer, "__init__", prepare_and_check):
        forks._train(arguments)


def run(options: Mapping[str, object], sharded: bool) -> None:
    program = train_sharded if sharded else forks._train
    environment = launched("fsdp2") if sharded else {}
    ranks = [Fork(program, words(options), environment=environment | rank) for rank in rank_environments(2)]
    for status, message in [rank.result() for rank in ranks]:
        assert status == 0, message


@pytest.mark.dist
@pytest.mark.slow
def test_sharded_ranks_train_as_ddp_does_and_continue_bit_for_bit(
    clip_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    ddp, sharded, resumed = (tmp_path / name for name in ("ddp", "sharded", "resumed"))
    run(small(clip_dataset, ddp, **OPTIONS), sharded=False)
    run(small(clip_dataset, sharded, **OPTIONS), sharded=True)
    assert losses(sharded) == pytest.approx(losses(ddp), rel=1e-6)
    for name, tensor in final_state(ddp).items():
        torch.testing.assert_close(final_state(sharded)[name], tensor, rtol=0, atol=1e-6, msg=name)
    shutil.copytree(sharded, resumed)
    shutil.rmtree(checkpoints(resumed)[-1])
    run(small(clip_dataset, resumed, **OPTIONS), sharded=True)
    assert_same_run(resumed, sharded)
