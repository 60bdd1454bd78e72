import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.settings import UserError
from training.checkpoint import (
    STATE,
    Content,
    checkpoints,
    outdated,
    read_checkpoint,
    remove_outdated,
    restore,
    save_checkpoint,
    state_shapes,
)
from training.resume import newest_usable

CONFIG = {"a": 1}


def state(width: int = 4, seed: int = 0) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A small model whose optimizer has made a step."""
    torch.manual_seed(seed)
    model = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, width)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int = 5, seed: int = 0) -> Path:
    return save_checkpoint(folder, step, *state(seed=seed), CONFIG)


def read(path: Path) -> Content:
    return read_checkpoint(path, CONFIG, state_shapes(state()[0]))


def test_round_trip_restores_model_optimizer_and_step(tmp_path: Path) -> None:
    model, optimizer = state(seed=1)
    path = save_checkpoint(tmp_path, 30, model, optimizer, CONFIG)
    other, other_optimizer = state(seed=2)
    content = read(path)
    restore(content, other, other_optimizer)
    assert content.step == 30
    assert torch.equal(model.weight, other.weight)
    for name in ("exp_avg", "exp_avg_sq", "step"):
        ours, theirs = (o.state_dict()["state"][0][name] for o in (optimizer, other_optimizer))
        assert torch.equal(ours, theirs)


def test_hyperparameters_are_those_of_the_run_and_not_of_the_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, seed=1)
    model = nn.Linear(4, 2)
    groups: list[dict[str, Any]] = [{"params": [model.bias], "lr": 0.5}, {"params": [model.weight], "lr": 0.25}]
    optimizer = torch.optim.AdamW(groups, betas=(0.5, 0.75))
    restore(read(path), model, optimizer)
    assert [(group["lr"], *group["betas"]) for group in optimizer.param_groups] == [(0.5, 0.5, 0.75), (0.25, 0.5, 0.75)]
    expected = state(seed=1)[1].state_dict()["state"]  # the weight comes first
    assert torch.equal(optimizer.state[model.weight]["exp_avg"], expected[0]["exp_avg"])
    assert torch.equal(optimizer.state[model.bias]["exp_avg"], expected[1]["exp_avg"])


def test_restored_state_reaches_an_optimizer_that_has_made_no_step(tmp_path: Path) -> None:
    path = save(tmp_path, seed=1)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25)
    restore(read(path), model, optimizer)
    expected = state(seed=1)[1].state_dict()["state"]
    assert all(torch.equal(optimizer.state_dict()["state"][i]["exp_avg"], expected[i]["exp_avg"]) for i in (0, 1))


@pytest.mark.parametrize(
    ("keep", "every", "removed"), [(2, None, [2, 4, 6]), (1, 4, [2, 6]), (9, None, []), (2, 5, [2, 4, 6])]
)
def test_which_checkpoints_are_outdated(keep: int, every: int | None, removed: list[int]) -> None:
    assert outdated([2, 4, 6, 8, 10], keep, every) == removed


def test_old_checkpoints_are_removed_and_unfinished_ones_ignored(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".tmp-step-00000004-1").mkdir(parents=True)
    for step in (5, 10, 15, 20):
        save(tmp_path, step)
        remove_outdated(tmp_path, keep=2, keep_every=10)
    (tmp_path / "checkpoints" / "step-00000025").mkdir()
    assert [path.name[-2:] for path in checkpoints(tmp_path)] == ["10", "15", "20"]
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


def test_interrupted_save_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json", "config.json"])
@pytest.mark.parametrize("how", ["torn", "zeroed", "absent"])
def test_damaged_checkpoint_is_named(tmp_path: Path, name: str, how: str) -> None:
    path = save(tmp_path)
    content = bytearray((path / name).read_bytes())
    content[-9:] = b"" if how == "torn" else bytes(9)
    (path / name).unlink()
    if how != "absent":
        (path / name).write_bytes(content)
    expected = "is not a training checkpoint" if (name, how) == ("state.json", "absent") else "is damaged"
    with pytest.raises(UserError, match=f"step-00000005 {expected}"):
        read(path)


def test_weights_that_are_not_finite_are_not_continued_from(tmp_path: Path) -> None:
    save(tmp_path, 5)
    model, optimizer = state()
    model.bias.data[1] = torch.nan
    path = save_checkpoint(tmp_path, 10, model, optimizer, CONFIG)
    with pytest.raises(UserError, match="step-00000010 holds NaN or infinity in bias"):
        read(path)
    content, refused = newest_usable(checkpoints(tmp_path), CONFIG, state_shapes(model))
    assert content is not None
    assert (content.step, len(refused)) == (5, 1)


def test_other_files_in_an_outdated_checkpoint_are_kept(tmp_path: Path) -> None:
    (save(tmp_path, 5) / "teacher.safetensors").write_bytes(b"mine")
    (tmp_path / "elsewhere").mkdir()
    moved = save(tmp_path, 6).rename(tmp_path / "elsewhere" / "step-00000006")
    (tmp_path / "checkpoints" / moved.name).symlink_to(moved)
    for step in (10, 15):
        save(tmp_path, step)
        remove_outdated(tmp_path, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints" / "step-00000005").iterdir()] == ["teacher.safetensors"]
    assert (moved / STATE).is_file()
    assert not (tmp_path / "checkpoints" / "step-00000010").exists()
    with pytest.raises(UserError, match=r"step-00000005 holds teacher\.safetensors, which this program did not write"):
        save(tmp_path, 5)


@pytest.mark.parametrize("room", [0, 12_000])  # bytes: none for the weights, or for them but not for the optimizer
def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(small_disk: Path, room: int) -> None:
    model = nn.Linear(512, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 512)).sum().backward()
    optimizer.step()
    fill(small_disk, room)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(small_disk, 5, model, optimizer, CONFIG)
    assert list((small_disk / "checkpoints").iterdir()) == []


def fill(disk: Path, room: int) -> None:
    """Leave so many bytes on a small disk, or nearly so many."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    with (disk / "filler").open("r+b") as stream:
        stream.truncate((disk / "filler").stat().st_size - room)


def test_checkpoint_of_another_run_or_model_is_named(tmp_path: Path) -> None:
    path = save(tmp_path)
    with pytest.raises(
        UserError, match=r"step-00000005 is of a run with other settings: a = 1 \(recorded\), 2 \(now\)"
    ):
        read_checkpoint(path, {"a": 2}, state_shapes(state()[0]))
    with pytest.raises(UserError, match=r"step-00000005 does not match the model \(weight and 0 more\)"):
        read_checkpoint(path, CONFIG, state_shapes(state(width=5)[0]))


def test_the_newest_usable_one_is_taken(tmp_path: Path) -> None:
    shapes = state_shapes(state()[0])
    assert newest_usable([], CONFIG, shapes) == (None, [])
    paths = [save(tmp_path, step) for step in (5, 10, 15)]
    (paths[2] / STATE).write_text(json.dumps({"step": 15}))
    content, refused = newest_usable(checkpoints(tmp_path), CONFIG, shapes)
    assert content is not None
    assert content.step == 10
    assert [("step-00000015" in reason) for reason in refused] == [True]
    for path in paths:
        (path / STATE).write_text("{}")
    with pytest.raises(UserError, match="no checkpoint can be used"):
        newest_usable(checkpoints(tmp_path), CONFIG, shapes)
