"""What happens to the other ranks when one of two fails."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import distributed

from benchmarks.made_shards import make_shards
from pipeline.dataset import ShardDataset
from pipeline.sampling.order import DatasetSize, OrderSettings, sample_order
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.training.forks import Fork, run_ranks, start_ranks
from tests.training.test_pretrain import OVERFLOWING, losses, small
from training.checkpoint import checkpoints
from training.distributed import LOCK, HostCopy, all_reduce_max, exclusive_run, raise_on_all_ranks

CLIPS = 12  # three steps of four
NO_CHECKPOINTS = {"train.checkpoint_every": 1000}


def act_on_rank(rank: int, folder: Path) -> None:
    """Rank 1 fails in the second of three things that both do; writes what each rank saw."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    accelerator = Accelerator(cpu=True)

    def fail_on_rank_1() -> str:
        if rank == 1:
            raise OSError("no such disk")
        return "read"

    seen: list[Any] = [
        HostCopy(all_reduce_max(accelerator, rank, torch.tensor(rank == 1), 5 - rank)).read(),
        raise_on_all_ranks(accelerator, lambda: rank),
    ]
    try:
        raise_on_all_ranks(accelerator, fail_on_rank_1)
    except (OSError, UserError) as error:
        seen.append(f"{type(error).__name__}: {error}")
    seen.append(raise_on_all_ranks(accelerator, lambda: "again"))
    try:
        with exclusive_run(accelerator, folder / "run"):
            pass
    except UserError as error:
        seen.append(str(error))
    torch.save(seen, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.dist
def test_what_fails_on_one_rank_fails_on_all(tmp_path: Path) -> None:
    with open_storage(str(tmp_path / "run")).exclusive_lock(LOCK):
        run_ranks(act_on_rank, tmp_path)
    first, second = torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt")
    assert first.pop().startswith(f"another job is writing to {tmp_path / 'run'} (")
    assert second.pop() == "rank 1 stops because rank 0 failed: see that rank's error"
    assert first == [[1, 1, 5], 0, "UserError: rank 0 stops because rank 1 failed: see that rank's error", "again"]
    assert second == [[1, 1, 5], 1, "OSError: no such disk", "again"]


def test_a_single_rank_raises_its_own_error() -> None:
    accelerator = Accelerator(cpu=True)
    assert raise_on_all_ranks(accelerator, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        raise_on_all_ranks(accelerator, lambda: 1 // 0)


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    for name in (".tmp-config.json-0123456789ab", "config.json"):
        (tmp_path / name).touch()
    with exclusive_run(Accelerator(cpu=True), tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, "config.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "clips", CLIPS, frames=8, size=(96, 80), per_shard=4)


def end(ranks: list[Fork]) -> str:
    """The output of ranks that had to end by themselves with a clear error."""
    results = [rank.result() for rank in ranks]
    message = "".join(output for _, output in results)
    assert [status for status, _ in results] == [2, 2], message
    assert "Traceback" not in message
    return message


@pytest.mark.dist
def test_a_damaged_frame_that_one_rank_reads_ends_both_and_the_steps_before_are_saved(
    clips: Path, tmp_path: Path
) -> None:
    dataset = ShardDataset(clips)
    position = np.array([2 * 4 + 3])  # in the third step, the last clip of rank 1
    row = int(sample_order(OrderSettings(), 0, position, [DatasetSize((4, 4, 4))]).row[0])
    shard = dataset.manifest.shards[dataset.shard[row]].file
    content = (clips / shard).read_bytes()
    for jpeg in [dataset.frame(row, frame).tobytes() for frame in range(8)]:
        content = content.replace(jpeg, jpeg[:200] + bytes(len(jpeg) - 200))
    (clips / shard).write_bytes(content)
    message = end(start_ranks(small(clips, tmp_path / "run", **NO_CHECKPOINTS)))
    key = dataset.keys[row]
    assert re.search(
        rf"error: frame \d of sample {key} in {clips}/{shard} is damaged: .* `python -m pipeline\.verify", message
    )
    assert "error: rank 0 stops because rank 1 failed: see that rank's error" in message
    assert "step 2 is saved" in message
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000002"]


@pytest.mark.dist
def test_a_shard_that_is_cut_during_the_run_ends_both_ranks(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start_ranks(small(clips, out, **NO_CHECKPOINTS, **{"train.epochs": 5000}))
    ranks[0].wait_for(out / "metrics.jsonl")
    os.truncate(clips / "shard-000001.tar", 512)  # where a map of the file would end a rank with SIGBUS
    message = end(ranks)
    assert re.search(rf"error: shard {clips}/shard-000001\.tar (ends within|changed).*of sample clip0.*verify", message)
    (saved,) = checkpoints(out)
    assert int(saved.name[-8:]) == max(losses(out))


@pytest.mark.dist
def test_a_loss_that_is_not_finite_is_reported_by_both_ranks_each_with_its_samples(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    message = end(start_ranks(small(clips, out, **OVERFLOWING)))
    assert message.count("error: not finite in step 0") == 2
    keys = ShardDataset(clips).keys
    rows = sample_order(OrderSettings(), 0, np.arange(4), [DatasetSize((4, 4, 4))]).row
    for rank, part in enumerate(np.split(rows, 2)):
        report = json.loads((out / "nonfinite" / f"step-00000000-rank-{rank}.json").read_text())
        assert [sample["key"] for sample in report["samples"]] == [str(keys[row]) for row in part.tolist()]
        assert "gradient of the backbone" in report["broken"]
    assert [path.name for path in checkpoints(out / "nonfinite")] == ["step-00000000"]
