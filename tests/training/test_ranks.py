"""Two real CPU ranks against one: same losses, gradients and centres for the same global batch."""

from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from pipeline.reader.batch import Batch
from tests.training.recorded import TINY_MODEL, recorded_model, recorded_values, recorded_views
from training.model import LossSettings, TCoRe

TEMPERATURE = recorded_values().teacher_temperature


def without_koleo() -> TCoRe:
    """KoLeo compares the clips of one rank only, so it is left out."""
    return recorded_model(TINY_MODEL.model_copy(update={"loss": LossSettings(koleo=0)}))


def global_batch() -> Batch:
    """Two clips of the recorded batch; their masks differ in number."""
    views = recorded_views()
    pairs = [
        torch.cat([crop[:2] for crop in torch.split(part, 3)])
        for part in (views.global_crops, views.local_crops, *views.auxiliary, views.masks)
    ]
    return Batch(pairs[0], pairs[1], (pairs[2], pairs[3]), pairs[4])


def part_of_rank(views: Batch, rank: int) -> Batch:
    masks = views.masks[rank::2]
    share = masks.sum().item() / (views.masks.sum().item() / 2)
    auxiliary = tuple(frame[rank::2] for frame in views.auxiliary)
    return Batch(views.global_crops[rank::2], views.local_crops[rank::2], auxiliary, masks, share)


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = without_koleo()
    parallel = DistributedDataParallel(model)
    terms = parallel(part_of_rank(global_batch(), rank), TEMPERATURE)
    terms["total"].backward()
    model.apply_centre_update()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    centres = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".center")}
    terms = {name: value.detach() for name, value in terms.items()}
    torch.save({"terms": terms, "gradients": gradients, "centres": centres}, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.dist
def test_two_ranks_are_one_global_batch(tmp_path: Path) -> None:
    spawn(run_rank, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    model = without_koleo()
    terms = model(global_batch(), TEMPERATURE)
    terms["total"].backward()
    model.apply_centre_update()
    for name, value in terms.items():
        torch.testing.assert_close((ranks[0]["terms"][name] + ranks[1]["terms"][name]) / 2, value.detach())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ranks[0]["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-5)
            assert torch.equal(ranks[0]["gradients"][name], ranks[1]["gradients"][name])
    for name, centre in ranks[1]["centres"].items():
        torch.testing.assert_close(centre, model.state_dict()[name])
