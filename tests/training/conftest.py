from pathlib import Path

import pytest
import torch

from benchmarks.made_shards import make_shards

torch.set_num_threads(1)  # the models here are tiny: more threads only wait for one another


@pytest.fixture(scope="session")
def clip_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips in two shards, made without Ray."""
    return make_shards(tmp_path_factory.mktemp("shards") / "clips", 6, frames=10, size=(96, 80), per_shard=3)
