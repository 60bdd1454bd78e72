from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.settings import UserError
from training.checkpoint import checkpoints, load_checkpoint, save_checkpoint


def state(width: int = 4, seed: int = 0) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A small model whose optimiser has made a step."""
    torch.manual_seed(seed)
    model = nn.Linear(width, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, width)).sum().backward()
    optimiser.step()
    return model, optimiser


def test_round_trip_restores_model_optimiser_and_step(tmp_path: Path) -> None:
    model, optimiser = state(seed=1)
    path = save_checkpoint(tmp_path, 30, model, optimiser, {"a": 1}, keep=2)
    other, other_optimiser = state(seed=2)
    assert load_checkpoint(path, other, other_optimiser) == 30
    assert torch.equal(model.weight, other.weight)
    ours, theirs = (o.state_dict()["state"][0]["exp_avg"] for o in (optimiser, other_optimiser))
    assert torch.equal(ours, theirs)


def test_newest_are_kept_and_unfinished_ones_not_seen(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, *state(), {}, keep=2)
    (tmp_path / "checkpoints" / ".tmp-step-00000020-1").mkdir()
    (tmp_path / "checkpoints" / "step-00000025").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-00000015"]


def test_interrupted_save_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 5, *state(), {}, keep=2)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.pt", "state.json"])
def test_damaged_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, 5, *state(), {}, keep=2)
    (path / name).write_bytes((path / name).read_bytes()[:7])
    with pytest.raises(UserError, match="step-00000005 is damaged"):
        load_checkpoint(path, *state())


def test_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, *state(), {}, keep=2)
    with pytest.raises(UserError, match="does not fit this configuration"):
        load_checkpoint(path, *state(width=5))
