from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from pipeline.reader.batch import Batch
from tests.training.recorded import TINY_MODEL, recorded_model, recorded_values, recorded_views
from training.metrics import effective_rank
from training.model import LossSettings
from training.nonfinite import broken_parts
from training.optimizer import OptimizerSettings, build_optimizer
from training.step import (
    StepResult,
    StepSettings,
    forward_backward_step,
    micro_batches,
    random_seed,
    update_student,
)

WITHOUT_KOLEO = TINY_MODEL.model_copy(update={"loss": LossSettings(koleo=0)})


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_and_their_tail_add_up_to_the_whole_batch(size: int) -> None:
    (whole, after), (split, split_after) = (step(recorded_views(), part) for part in (None, size))
    for name, term in whole.losses.items():
        torch.testing.assert_close(split.losses[name], term, rtol=1e-5, atol=1e-7)
    for name, norm in whole.norms.items():
        torch.testing.assert_close(split.norms[name], norm, rtol=1e-5, atol=0)
    for name in ("cls_center.center", "patch_center.center"):
        torch.testing.assert_close(split_after[name], after[name])
    for name in ("cls_entropy", "patch_entropy"):
        torch.testing.assert_close(split.diagnostics[name], whole.diagnostics[name], rtol=1e-5, atol=0)
    assert effective_rank(split.diagnostics["features"]) == pytest.approx(
        effective_rank(whole.diagnostics["features"]), rel=1e-4
    )


def step(batch: Batch, size: int | None = None, bf16: bool = False) -> tuple[StepResult, dict[str, torch.Tensor]]:
    model = recorded_model(WITHOUT_KOLEO)
    optimizer = build_optimizer(model, OptimizerSettings())
    values, accelerator = recorded_values(), Accelerator(cpu=True)
    result = forward_backward_step(accelerator, model, batch, values.teacher_temperature, StepSettings(3.0, size, bf16))
    update_student(optimizer, values, skipped=(~result.finite).float())
    if result.finite:
        model.update_teacher(values.momentum)
        model.apply_center_update()
    else:
        model.forget_pending_centers()
    model.apply_center_update()  # nothing is pending any more
    assert all(parameter.grad is None for parameter in model.parameters())
    return result, model.state_dict()


def test_bfloat16_rounds_the_step_and_leaves_weights_and_losses_in_float32() -> None:
    (exact, after), (rounded, rounded_after) = step(recorded_views()), step(recorded_views(), bf16=True)
    assert {term.dtype for term in rounded.losses.values()} == {torch.float32}
    assert rounded.finite
    for name, term in exact.losses.items():
        assert rounded.losses[name].item() != term.item() or name == "koleo"
        torch.testing.assert_close(rounded.losses[name], term, rtol=0.05, atol=0)
    for name, norm in exact.norms.items():
        torch.testing.assert_close(rounded.norms[name], norm, rtol=0.05, atol=0)
    assert all(tensor.dtype == torch.float32 for tensor in rounded_after.values())
    assert rounded_after.keys() == after.keys()


def test_micro_batches_cut_every_view_by_clips() -> None:
    views = recorded_views()
    parts = list(micro_batches(views, 2))
    assert [weight for _, weight in parts] == pytest.approx([2 / 3, 1 / 3])
    tail = parts[1][0]
    assert torch.equal(tail.global_crops, views.global_crops[[2, 5]])
    assert torch.equal(tail.local_crops, views.local_crops[[2, 5, 8]])
    assert torch.equal(tail.auxiliary[1], views.auxiliary[1][[2, 5]])
    assert torch.equal(tail.masks, views.masks[[2, 5]])
    assert sum(weight * part.masked_loss_scale for part, weight in parts) == pytest.approx(1)
    for size in (None, 3, 4):
        ((whole, weight),) = micro_batches(views, size)
        assert whole is views, "not a copy"
        assert weight == 1


def test_a_step_that_is_not_finite_changes_nothing_and_names_what_broke() -> None:
    crops = recorded_views().local_crops.clone()
    crops[4] = torch.nan
    result, state = step(replace(recorded_views(), local_crops=crops))
    assert not result.finite
    assert broken_parts(result) == ["loss cls_local", "gradient of the backbone", "gradient of the head"]
    assert all(torch.equal(state[name], tensor) for name, tensor in recorded_model(WITHOUT_KOLEO).state_dict().items())


def test_a_skipped_step_between_two_others_leaves_no_trace_in_weights_and_optimizer() -> None:
    states = []
    for skips in ([0.0, 0.0], [1.0, 0.0, 1.0, 1.0, 0.0]):
        model = recorded_model()
        optimizer = build_optimizer(model, OptimizerSettings())
        for skip in skips:
            model(recorded_views(), recorded_values().teacher_temperature).losses["total"].backward()
            if skip:
                for parameter in model.student.parameters():
                    parameter.grad = torch.full_like(parameter, torch.nan)
            update_student(optimizer, recorded_values(), torch.tensor(skip))
        states.append((model.state_dict(), optimizer.state_dict()["state"]))
    (weights, moments), (weights_with_skips, moments_with_skips) = states
    assert all(torch.equal(weights_with_skips[name], tensor) for name, tensor in weights.items())
    assert moments.keys() == moments_with_skips.keys()
    for number, values in moments.items():
        assert all(torch.equal(moments_with_skips[number][name], value) for name, value in values.items())


def test_seeds_of_steps_and_ranks_differ_and_repeat() -> None:
    seeds = {random_seed(seed, step, rank) for seed in range(3) for step in range(5) for rank in range(4)}
    assert len(seeds) == 60
    assert random_seed(1, 2, 3) == random_seed(1, 2, 3)
