"""Two real CPU ranks against one: the same global batch gives the same losses, gradients, weights and centers."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.reader.batch import Batch
from tests.training.forks import run_ranks
from tests.training.recorded import TINY_MODEL, recorded_model, recorded_values, recorded_views, without_key_biases
from training.checkpoint import read_checkpoint, restore, save_checkpoint, state_shapes
from training.model import LossSettings, TCoRe
from training.optimizer import OptimizerSettings, apply_schedule, build_optimizer, clip_gradients

VALUES = recorded_values()
ACROSS = TINY_MODEL.model_copy(update={"loss": LossSettings(koleo_across_ranks=True)})


def global_batch() -> Batch:
    """Four clips, one of them a negative of another; the parts of two ranks differ in their masked patches."""
    views = recorded_views()

    def pick(crops: Tensor) -> Tensor:
        parts = torch.split(crops, 3)
        return torch.cat(
            [torch.cat([part, part.flip(-1)[:1] if part.dtype == torch.bool else -part[:1]]) for part in parts]
        )

    auxiliary = tuple(pick(frame) for frame in views.auxiliary)
    return Batch(pick(views.global_crops), pick(views.local_crops), auxiliary, pick(views.masks))


def part_of_rank(views: Batch, rank: int) -> Batch:
    def pick(crops: Tensor) -> Tensor:
        return torch.cat([part[2 * rank : 2 * rank + 2] for part in torch.split(crops, 4)])

    masks = pick(views.masks)
    share = masks.sum().item() / (views.masks.sum().item() / 2)
    auxiliary = tuple(pick(frame) for frame in views.auxiliary)
    return Batch(pick(views.global_crops), pick(views.local_crops), auxiliary, masks, share)


def train_step(model: TCoRe, forward: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """Terms and gradient norms of one whole step, and its optimizer."""
    optimizer = build_optimizer(model, OptimizerSettings())
    apply_schedule(optimizer, VALUES)
    losses = forward(batch, VALUES.teacher_temperature).losses
    losses["total"].backward()
    norms = clip_gradients(model, 10.0)
    optimizer.step()
    model.update_teacher(VALUES.momentum)
    model.apply_center_update()
    return {name: term.detach() for name, term in losses.items()}, norms, optimizer


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    batch = part_of_rank(global_batch(), rank)
    model = recorded_model(ACROSS)
    losses, norms, _ = train_step(model, DistributedDataParallel(model), batch)
    result: dict[str, Any] = {"losses": losses, "norms": norms, "state": model.state_dict()}

    sharded = recorded_model(ACROSS)
    mesh = init_device_mesh("cpu", (2,))
    for branch in (sharded.student, sharded.teacher):
        for block in branch.backbone.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    _, sharded_norms, optimizer = train_step(sharded, sharded, batch)
    path = save_checkpoint(folder, 1, sharded, optimizer, {}, writes=rank == 0)
    distributed.barrier()
    content = read_checkpoint(path, {}, state_shapes(sharded))
    before = [cast(DTensor, parameter).to_local().clone() for parameter in sharded.parameters()]
    restore(content, sharded, optimizer)
    same = all(torch.equal(a, cast(DTensor, b).to_local()) for a, b in zip(before, sharded.parameters(), strict=True))
    result |= {"sharded norms": sharded_norms, "sharded": content.model, "restored": same}
    torch.save(result, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(run_rank, folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    model = recorded_model(ACROSS)
    losses, norms, _ = train_step(model, model, global_batch())
    return {"losses": losses, "norms": norms, "state": model.state_dict()}


@pytest.mark.dist
def test_losses_are_means_over_ranks_and_gradients_those_of_the_global_batch(
    ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for name, value in alone["losses"].items():  # KoLeo too: it looks across ranks here
        torch.testing.assert_close((ranks[0]["losses"][name] + ranks[1]["losses"][name]) / 2, value)
    for name, norm in alone["norms"].items():
        torch.testing.assert_close(ranks[0]["norms"][name], norm, rtol=1e-4, atol=0)
        assert torch.equal(ranks[0]["norms"][name], ranks[1]["norms"][name])


@pytest.mark.dist
@pytest.mark.parametrize("form", ["state", "sharded"])
def test_weights_and_centers_after_the_step_are_those_of_one_rank(
    form: str, ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for name, tensor in alone["state"].items():
        ours, theirs = (without_key_biases(name, state[name]) for state in (ranks[1][form], alone["state"]))
        assert (ours - theirs).abs().max() <= 1e-4 * tensor.abs().max(), name


@pytest.mark.dist
def test_sharded_state_is_saved_whole_and_restored(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert all(rank["restored"] for rank in ranks)
    for name, norm in alone["norms"].items():
        torch.testing.assert_close(ranks[0]["sharded norms"][name], norm, rtol=1e-4, atol=0)
