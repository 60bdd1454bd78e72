import math

import pytest
import torch
from torch import Tensor

from tests.training.recorded import assert_near, recorded
from training.losses import cls_losses, cross_entropy, koleo_loss, patch_loss, squeeze_loss, teacher_targets


@pytest.fixture
def step() -> dict[str, Tensor]:
    return recorded("train_step")


def test_targets_are_the_recorded_ones(step: dict[str, Tensor]) -> None:
    state, temperature = recorded("train_step_state"), step["hp/teacher_temp"].item()
    cls = teacher_targets(step["out/head/teacher/cls_swapped"], state["dino_loss.center"], temperature)
    assert_near(cls.reshape(2, 3, 256), step["out/teacher_cls_probs"], 1e-5)
    patches = teacher_targets(step["out/head/teacher/patch"], state["ibot_patch_loss.center"][0], temperature)
    assert_near(patches, step["out/teacher_patch_probs"], 1e-5)


def test_cls_losses_are_the_recorded_ones(step: dict[str, Tensor]) -> None:
    local, global_ = cls_losses(
        step["out/teacher_cls_probs"].flip(0),
        step["out/head/student/global_cls"].reshape(2, 3, 256),
        step["out/head/student/local_cls"].reshape(3, 3, 256),
        0.1,
    )
    assert local.item() == pytest.approx(step["out/loss/dino_local"].item(), rel=1e-5)
    assert global_.item() == pytest.approx(step["out/loss/dino_global"].item(), rel=1e-5)


def test_cls_losses_are_the_mean_over_all_compared_pairs() -> None:
    targets, global_, local = (torch.randn(n, 5, 11).double() for n in (2, 2, 4))
    targets = targets.softmax(-1)
    pairs = [(targets[t], local[i]) for i in range(4) for t in range(2)]
    pairs += [(targets[1], global_[0]), (targets[0], global_[1])]
    expected = sum(-(p * (z / 0.1).log_softmax(-1)).sum(-1).mean() for p, z in pairs) / 10
    torch.testing.assert_close(sum(cls_losses(targets, global_, local, 0.1)), expected)


@pytest.mark.parametrize("frame", ["past", "future"])
def test_patch_loss_is_the_recorded_one(step: dict[str, Tensor], frame: str) -> None:
    logits = step[f"out/head/student/{frame}_patch"]
    loss = patch_loss(step["out/teacher_patch_probs"], logits, step["in/masks_weight"], 6, 0.1)
    assert loss.item() == pytest.approx(step[f"out/loss/rec_{frame}"].item(), rel=1e-5)


def test_squeeze_loss_is_the_recorded_one(step: dict[str, Tensor]) -> None:
    loss = squeeze_loss(step["out/head/student/past_patch"], step["out/head/student/future_patch"])
    assert loss.item() == pytest.approx(step["out/loss/squeeze_mse"].item(), rel=1e-5)


def test_koleo_is_the_recorded_one(step: dict[str, Tensor]) -> None:
    first, second = step["out/student/global/cls"].chunk(2)
    loss = 0.1 * (koleo_loss(first) + koleo_loss(second))
    assert loss.item() == pytest.approx(step["out/loss/koleo_weighted"].item(), rel=1e-5)


def test_koleo_of_points_on_a_circle_is_minus_the_log_of_the_chord() -> None:
    angles = torch.arange(8) * 2 * math.pi / 8
    points = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    assert koleo_loss(points).item() == pytest.approx(-math.log(2 * math.sin(math.pi / 8)), rel=1e-5)


@pytest.mark.parametrize("rows", [torch.ones(1, 4), torch.ones(3, 4), torch.zeros(3, 4)])
def test_koleo_and_its_gradient_stay_finite_for_one_row_and_for_equal_rows(rows: Tensor) -> None:
    features = rows.clone().requires_grad_()
    loss = koleo_loss(features)
    (gradient,) = torch.autograd.grad(loss, features)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_cross_entropy_is_least_at_the_targets_and_then_their_entropy() -> None:
    logits = torch.randn(6, 9)
    targets = (logits / 0.1).softmax(-1)
    entropy = -(targets * targets.log()).nan_to_num().sum(-1)
    torch.testing.assert_close(cross_entropy(targets, logits, 0.1), entropy)
    assert (cross_entropy(targets, torch.randn(6, 9), 0.1) > entropy).all()


def test_no_masked_patch_costs_nothing() -> None:
    nothing = torch.zeros(0, 9)
    assert patch_loss(nothing, nothing, torch.zeros(0), 6, 0.1).item() == 0
    assert squeeze_loss(nothing, nothing).item() == 0
