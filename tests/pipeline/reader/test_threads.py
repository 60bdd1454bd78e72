"""Batches of the torch back end; what each view shows is tested beside DALI's, in `test_graph.py`."""

import gc
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.made_shards import make_shards
from pipeline.reader.batch import PlannedBatch
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.reader.threads import BatchMemory, start_pool
from pipeline.sampling.color import color_map
from pipeline.sampling.views import IMAGENET_STD, ViewSettings

VIEWS = ViewSettings(global_size=50, local_size=34, local_crops=2)
"""Sides that are neither multiples of a vector nor of a block of the blur."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 clips of 4 frames."""
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 6, frames=4, size=(170, 128), per_shard=3)


def read(
    shards: Path, backend: Literal["dali", "torch"] = "torch", rank: int = 0, ranks: int = 1, **options: Any
) -> list[PlannedBatch]:
    """Two batches of 6 clips."""
    settings = ReaderSettings(shards=str(shards), views=VIEWS, backend=backend, **options)
    with Loader(settings, 6, range(2), rank, ranks) as loader:
        return list(loader)


def kinds(batch: PlannedBatch) -> list[Tensor]:
    """The views (views, clips, 3, side, side) of a batch, by kind."""
    kinds = (batch.global_crops, batch.local_crops, *batch.auxiliary)
    return [views.view(-1, len(batch.plan.rows), *views.shape[1:]) for views in kinds]


@pytest.fixture(scope="module")
def by_one_thread(clips: Path) -> list[PlannedBatch]:
    return read(clips, threads=1)


def test_a_plan_has_the_pixels_of_dali(clips: Path, by_one_thread: list[PlannedBatch]) -> None:
    level = 1 / 255 / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for ours, theirs in zip(by_one_thread, read(clips, "dali"), strict=True):
        views = [(one[n], other[n]) for one, other in zip(kinds(ours), kinds(theirs), strict=True) for n in range(2)]
        # both round before the colors, which can make more than two levels of two
        gains = np.abs(color_map(ours.plan.photometry).matrix).sum(axis=-1).max(axis=-1).clip(min=1)
        for (one, other), gain in zip(views, torch.from_numpy(gains.T), strict=True):
            difference = (one - other).abs() / level
            assert (difference.amax((1, 2, 3)) <= 2 * gain + 0.01).all()
            assert difference.mean() < 0.3
            assert torch.equal(one.abs().amax((1, 2, 3)) == 0, other.abs().amax((1, 2, 3)) == 0)


def test_the_bits_depend_neither_on_threads_nor_on_the_place_in_the_batch(
    clips: Path, by_one_thread: list[PlannedBatch]
) -> None:
    by_three, *of_ranks = [read(clips, threads=3), *(read(clips, rank=rank, ranks=3) for rank in range(3))]
    for step, batch in enumerate(by_one_thread):
        parts = zip(*(kinds(part[step]) for part in of_ranks), strict=True)
        for expected, other, of_rank in zip(kinds(batch), kinds(by_three[step]), parts, strict=True):
            assert torch.equal(other, expected)
            assert torch.equal(torch.cat(of_rank, dim=1), expected)


def test_threads_compute_on_one_core_and_leave_other_threads_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with start_pool(3) as pool:
            assert [pool.submit(torch.get_num_threads).result() for _ in range(6)] == [1] * 6
            assert len(pool._threads) == 3
            assert torch.get_num_threads() == 2
        with start_pool(1):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_memory_is_used_again_once_its_last_tensor_is_gone() -> None:
    memory = BatchMemory(8)
    block = memory.block()
    address, view = block.data_ptr(), block[2:].view(2, 3)
    del block
    gc.collect()
    assert memory.block().data_ptr() != address
    view.fill_(1)
    del view
    gc.collect()
    assert address in {memory.block().data_ptr()} | {memory.block().data_ptr()}


@pytest.mark.gpu
def test_views_on_the_gpu_are_those_of_the_cpu(clips: Path, by_one_thread: list[PlannedBatch]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    settings = ReaderSettings(shards=str(clips), views=VIEWS, backend="torch")
    with Loader(settings, 6, range(2), device=torch.device("cuda", 0)) as loader:
        for batch, expected in zip(loader, by_one_thread, strict=True):
            for views, on_cpu in zip(kinds(batch), kinds(expected), strict=True):
                assert views.is_cuda
                assert torch.equal(views.cpu(), on_cpu)
