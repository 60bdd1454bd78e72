import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import reference_step
from tests.training.recorded import assert_near, needs_compiler, recorded
from training import losses
from training.losses import Classifier, Distillation, Prototypes, koleo_loss, prototype_losses
from training.model import view_pairs

VIEWS, CLIPS, FRAMES, PATCHES, WIDTH, K = 5, 4, 2, 7, 6, 23
STUDENT, TEACHER = 0.1, 0.05


def unit_rows(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


class Problem:
    """Random rows, prototypes and centers."""

    def __init__(self, frames: int = FRAMES, patches: int = PATCHES, dtype: torch.dtype = torch.float64) -> None:
        self.cls = unit_rows(VIEWS, CLIPS, seed=1, dtype=dtype).requires_grad_()
        self.patches = unit_rows(frames, patches, seed=2, dtype=dtype).requires_grad_()
        self.teacher_cls = unit_rows(2, CLIPS, seed=3, dtype=dtype)
        self.teacher_patches = unit_rows(1, patches, seed=4, dtype=dtype)
        draw = torch.Generator().manual_seed(5)
        self.g, self.v, self.teacher_g, self.teacher_v, self.centers, self.weights = (
            torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)
            for shape in ((K, 1), (K, WIDTH), (K, 1), (K, WIDTH), (2, K), (patches,))
        )
        self.leaves = {"g": self.g, "v": self.v, "cls": self.cls, "patches": self.patches}
        for leaf in self.leaves.values():
            leaf.requires_grad_()

    def fused(self, squeeze: float = 20.0, compiled: bool = False) -> losses.PrototypeLosses:
        per_clip = torch.full((CLIPS,), 1 / (CLIPS * (2 * VIEWS - 2)), dtype=self.g.dtype)
        return prototype_losses(
            Classifier(Prototypes(self.g, self.v), STUDENT),
            Classifier(Prototypes(self.teacher_g, self.teacher_v), TEACHER),
            Distillation(self.cls, self.teacher_cls, self.centers[0], per_clip, view_pairs(VIEWS)),
            Distillation(self.patches, self.teacher_patches, self.centers[1], self.weights),
            squeeze,
            compiled,
        )

    def reference(self, squeeze: float = 20.0) -> dict[str, Tensor]:
        student = self.g * self.v / self.v.norm(dim=1, keepdim=True)
        teacher = self.teacher_g * self.teacher_v / self.teacher_v.norm(dim=1, keepdim=True)
        cls_targets = reference_step.teacher_targets(self.teacher_cls @ teacher.T, self.centers[0], TEACHER)
        patch_targets = reference_step.teacher_targets(self.teacher_patches[0] @ teacher.T, self.centers[1], TEACHER)
        logits, patch_logits = self.cls @ student.T, self.patches @ student.T
        local, global_ = reference_step.cls_losses(cls_targets, logits[:2], logits[2:], STUDENT)
        frames = [reference_step.patch_loss(patch_targets, part, self.weights, 1, STUDENT) for part in patch_logits]
        squeezed = squeeze * reference_step.squeeze_loss(patch_logits[0], patch_logits[-1])
        return {
            "local": local,
            "global": global_,
            "squeeze": squeezed,
            "total": local + global_ + sum(frames) + squeezed,
        }


def gradients(total: Tensor, problem: Problem) -> dict[str, Tensor]:
    return dict(zip(problem.leaves, torch.autograd.grad(total, tuple(problem.leaves.values())), strict=True))


@pytest.mark.parametrize("rows_in_a_part", [1, 3, 1000])
@pytest.mark.parametrize("frames", [1, 2])
def test_value_and_gradients_are_those_of_k_wide_logits(
    rows_in_a_part: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(losses.PART, "cpu", rows_in_a_part * K)
    problem = Problem(frames)
    squeeze = 20.0 if frames == 2 else 0.0
    fused, expected = problem.fused(squeeze), problem.reference(squeeze)
    torch.testing.assert_close(fused.total, expected["total"], rtol=1e-12, atol=0)
    torch.testing.assert_close(fused.cls_s[2:].sum(), expected["local"], rtol=1e-12, atol=0)
    torch.testing.assert_close(fused.cls_s[:2].sum(), expected["global"], rtol=1e-12, atol=0)
    torch.testing.assert_close(fused.squeeze, expected["squeeze"], rtol=1e-11, atol=0)
    ours, theirs = gradients(3 * fused.total, problem), gradients(3 * expected["total"], problem)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_entropies_are_the_means_over_the_targets() -> None:
    problem = Problem()
    teacher = problem.teacher_g * problem.teacher_v / problem.teacher_v.norm(dim=1, keepdim=True)
    for rows, center, result in (
        (problem.teacher_cls, problem.centers[0], problem.fused().cls_entropy),
        (problem.teacher_patches, problem.centers[1], problem.fused().patch_entropy),
    ):
        targets = reference_step.teacher_targets(rows @ teacher.T, center, TEACHER)
        torch.testing.assert_close(result, -(targets * targets.log()).sum(-1).mean())


def test_nothing_k_wide_is_kept_for_the_backward_pass() -> None:
    problem = Problem(patches=40)
    node: Any = problem.fused().total.grad_fn
    assert node.saved_tensors == ()
    shapes = [tuple(tensor.shape) for tensor in node.gradients]
    assert shapes == [tuple(leaf.shape) for leaf in problem.leaves.values()]


def test_under_autocast_everything_but_products_stays_in_float32() -> None:
    problem = Problem(dtype=torch.float32)
    expected = gradients(problem.fused().total, problem)
    with torch.autocast("cpu", torch.bfloat16):
        fused = problem.fused()
    assert fused.total.dtype == torch.float32
    torch.testing.assert_close(fused.total, problem.fused().total, rtol=2e-2, atol=0)
    assert torch.equal(fused.squeeze, problem.fused().squeeze)  # small differences of logits need all digits
    for name, gradient in gradients(fused.total, problem).items():
        assert gradient.dtype == torch.float32
        assert_near(gradient, expected[name], 3e-2)


@needs_compiler
def test_inductor_compiles_the_losses_to_the_same_values() -> None:
    for patches in (PATCHES, PATCHES + 2):  # another number of masked patches
        problem = Problem(patches=patches, dtype=torch.float32)
        eager, compiled = problem.fused(), problem.fused(compiled=True)
        for ours, expected in zip(compiled, eager, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        expected_gradients = gradients(eager.total, problem)
        for name, gradient in gradients(compiled.total, problem).items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_no_masked_patch_costs_nothing() -> None:
    problem = Problem(patches=0)
    fused = problem.fused()
    assert fused.patches_s.tolist() == [0, 0]
    assert fused.squeeze.item() == fused.patch_entropy.item() == 0
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(fused.total, problem).values())


def test_reference_losses_are_the_recorded_ones() -> None:
    step, state = recorded("train_step"), recorded("train_step_state")
    temperature = step["hp/teacher_temp"].item()
    cls = reference_step.teacher_targets(step["out/head/teacher/cls_swapped"], state["cls_center.center"], temperature)
    assert_near(cls.reshape(2, 3, 256), step["out/teacher_cls_probs"], 1e-5)
    patches = reference_step.teacher_targets(
        step["out/head/teacher/patch"], state["patch_center.center"][0], temperature
    )
    assert_near(patches, step["out/teacher_patch_probs"], 1e-5)
    local, global_ = reference_step.cls_losses(
        step["out/teacher_cls_probs"].flip(0),
        step["out/head/student/global_cls"].reshape(2, 3, 256),
        step["out/head/student/local_cls"].reshape(3, 3, 256),
        0.1,
    )
    assert local.item() == pytest.approx(step["out/loss/dino_local"].item(), rel=1e-5)
    assert global_.item() == pytest.approx(step["out/loss/dino_global"].item(), rel=1e-5)
    logits = [step[f"out/head/student/{frame}_patch"] for frame in ("past", "future")]
    for frame, part in zip(("past", "future"), logits, strict=True):
        loss = reference_step.patch_loss(step["out/teacher_patch_probs"], part, step["in/masks_weight"], 6, 0.1)
        assert loss.item() == pytest.approx(step[f"out/loss/rec_{frame}"].item(), rel=1e-5)
    assert reference_step.squeeze_loss(*logits).item() == pytest.approx(step["out/loss/squeeze_mse"].item(), rel=1e-5)


def test_koleo_is_the_recorded_one() -> None:
    step = recorded("train_step")
    first, second = step["out/student/global/cls"].chunk(2)
    loss = 0.1 * (koleo_loss(first) + koleo_loss(second))
    assert loss.item() == pytest.approx(step["out/loss/koleo_weighted"].item(), rel=1e-5)


def test_koleo_of_points_on_a_circle_is_minus_the_log_of_the_chord() -> None:
    angles = torch.arange(8) * 2 * math.pi / 8
    points = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    assert koleo_loss(points).item() == pytest.approx(-math.log(2 * math.sin(math.pi / 8)), rel=1e-5)


@pytest.mark.parametrize("rows", [torch.ones(1, 4), torch.ones(3, 4), torch.zeros(3, 4)])
def test_koleo_and_its_gradient_stay_finite_for_one_row_and_for_equal_rows(rows: Any) -> None:
    features = rows.clone().requires_grad_()
    loss = koleo_loss(features)
    (gradient,) = torch.autograd.grad(loss, features)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
