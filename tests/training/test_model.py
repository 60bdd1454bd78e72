from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from pipeline.reader.batch import Batch
from tests.reference_data import read_json
from tests.training.recorded import (
    TINY_MODEL,
    assert_near,
    our_name,
    recorded,
    recorded_model,
    recorded_values,
    recorded_views,
    without_key_biases,
)
from training.losses import _compiled_part
from training.masks import locate_masked_patches
from training.model import LossSettings, TCoRe, TCoReSettings
from training.optimizer import OptimizerSettings, apply_schedule, build_optimizer, clip_gradients
from training.schedules import ScheduleSettings, StepValues, build_schedules

CPU = torch.device("cpu")
TEMPERATURE = recorded_values().teacher_temperature
OFFICIAL_TERMS = {
    "cls_local": ("dino_local", 1.0),
    "cls_global": ("dino_global", 1.0),
    "koleo": ("koleo_weighted", 1.0),
    "reconstruction_1": ("rec_past", 0.8),
    "reconstruction_2": ("rec_future", 0.8),
    "squeeze": ("squeeze_mse", 20.0),
}


def train_step(model: TCoRe, optimizer: torch.optim.Optimizer, views: Batch, values: StepValues, clip: float) -> Any:
    apply_schedule(optimizer, values)
    optimizer.zero_grad()
    losses = model(views, values.teacher_temperature).losses
    losses["total"].backward()
    norms = clip_gradients(model, clip)
    optimizer.step()
    model.update_teacher(values.momentum)
    model.apply_center_update()
    return losses, norms


@pytest.fixture(scope="module")
def gradients() -> dict[str, Tensor]:
    model = recorded_model()
    model(recorded_views(), TEMPERATURE).losses["total"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_state_is_that_of_the_official_code_but_for_names() -> None:
    official = recorded("train_step_state").keys() - {"ibot_patch_loss_2.center"}  # an unused buffer
    assert recorded_model().state_dict().keys() == official
    keys = read_json("checkpoint_keys")["vits16"]
    published = {f"teacher.{k}": v for k, v in keys["teacher_checkpoint"]["teacher"].items()}
    published |= {f"auxiliary.{k}": v for k, v in keys["auxiliary"].items()}
    published |= {k: v for k, v in keys["loss_buffers"].items() if k != "ibot_patch_loss_2.center"}
    with torch.device("meta"):
        state = TCoRe(TCoReSettings()).state_dict()
    assert {k: list(v.shape) for k, v in state.items() if not k.startswith("student.")} == {
        our_name(k): shape for k, shape in published.items()
    }


@pytest.mark.parametrize(
    "view", ["teacher/global", "student/global", "student/local", "student/past", "student/future"]
)
def test_tokens_of_every_view_are_the_recorded_ones(view: str) -> None:
    step, views, model = recorded("train_step"), recorded_views(), recorded_model()
    tokens = {
        "teacher/global": lambda: model.teacher.backbone(views.global_crops),
        "student/global": lambda: model.student.backbone(views.global_crops, views.masks),
        "student/local": lambda: model.student.backbone(views.local_crops),
        "student/past": lambda: model.student.backbone(views.auxiliary[0]),
        "student/future": lambda: model.student.backbone(views.auxiliary[1]),
    }[view]()
    for name, part in (("cls", tokens.cls), ("reg", tokens.registers), ("patch", tokens.patches)):
        assert_near(part, step[f"out/{view}/{name}"], 1e-5)


def test_teacher_rows_give_the_recorded_logits_and_center_update() -> None:
    step, views, model = recorded("train_step"), recorded_views(), recorded_model()
    rows = model.teacher_rows(views.global_crops, locate_masked_patches(views.masks, CPU))
    weight = model.teacher.cls_head.last_layer.weight
    swapped = (rows.cls_2bd.flip(0) @ weight.T).flatten(0, 1)
    assert_near(swapped, step["out/head/teacher/cls_swapped"], 1e-4)
    assert_near(rows.patches_md @ weight.T, step["out/head/teacher/patch"], 1e-4)
    before = model.cls_center.center.clone()
    model.apply_center_update()
    moved = 0.9 * before + 0.1 * step["out/head/teacher/cls_swapped"].mean(dim=0)
    assert_near(model.cls_center.center, moved, 1e-5)


def test_restored_patches_are_the_recorded_rows_of_the_masked_patches() -> None:
    step, views, model = recorded("train_step"), recorded_views(), recorded_model()
    current = model.student.backbone(views.global_crops, views.masks).patches
    restored = model.restored_patches(views.auxiliary, current, locate_masked_patches(views.masks, CPU))
    for frame, rows in zip(("past", "future"), restored, strict=True):
        assert_near(rows, step[f"out/pmm/{frame}/out"][views.masks], 1e-5)


def test_losses_are_the_recorded_ones() -> None:
    step = recorded("train_step")
    losses = recorded_model()(recorded_views(), TEMPERATURE).losses
    assert losses.keys() == {*OFFICIAL_TERMS, "total"}
    for name, (official, weight) in OFFICIAL_TERMS.items():
        assert losses[name].item() == pytest.approx(weight * step[f"out/loss/{official}"].item(), rel=1e-5), name
    assert losses["total"].item() == pytest.approx(step["out/loss/total"].item(), rel=1e-6)


def test_gradients_are_the_recorded_ones(gradients: dict[str, Tensor]) -> None:
    official = {name.removeprefix("grad/"): value for name, value in recorded("train_step_grads").items()}
    assert gradients.keys() == official.keys()
    for name, gradient in gradients.items():
        assert_near(gradient, official[name], 1e-4)


def test_state_after_one_step_is_the_recorded_one() -> None:
    model = recorded_model()
    optimizer = build_optimizer(model, OptimizerSettings())
    train_step(model, optimizer, recorded_views(), recorded_values(), recorded("train_step")["hp/clip"].item())
    after = {name.removeprefix("after/"): value for name, value in recorded("train_step_after").items()}
    state = model.state_dict()
    assert state.keys() == after.keys()
    for name, tensor in state.items():
        assert_near(without_key_biases(name, tensor), without_key_biases(name, after[name]), 1e-4)


def test_eight_steps_follow_the_recorded_trajectory() -> None:
    recording = recorded("train_trajectory")
    settings = ScheduleSettings(base_lr=0.02, warmup_epochs=2, teacher_temperature_epochs=3)
    schedules = build_schedules(settings, epochs=6, steps_per_epoch=4, total_batch_size=3)
    even = recorded_views()
    odd = Batch(
        -even.global_crops.flip(-1),
        -even.local_crops.flip(-1),
        tuple(-frame.flip(-1) for frame in even.auxiliary),
        recording["batch1/collated_masks"],
    )
    model = recorded_model()
    optimizer = build_optimizer(model, OptimizerSettings())
    for step in range(8):
        losses, norms = train_step(model, optimizer, (even, odd)[step % 2], schedules.at(step), clip=8.0)
        for name, (official, weight) in OFFICIAL_TERMS.items():
            expected = weight * recording[f"trace/{official}"][step].item()
            assert losses[name].item() == pytest.approx(expected, rel=1e-4), (step, name)
        for name, official in (("backbone", "backbone"), ("head", "dino_head"), ("pmm", "auxiliary_decoder")):
            assert norms[name].item() == pytest.approx(recording[f"trace/gradnorm_{official}"][step].item(), rel=1e-3)
    for name, tensor in model.state_dict().items():
        if f"final/{name}" in recording:
            final = recording[f"final/{name}"]
            assert_near(without_key_biases(name, tensor), without_key_biases(name, final), 1e-4)


def clips(views: Batch, chosen: list[int]) -> Batch:
    """The part of a batch of 3 clips that holds the chosen ones."""

    def pick(crops: Tensor) -> Tensor:
        return torch.cat([crop[chosen] for crop in torch.split(crops, 3)])

    masks = pick(views.masks)
    share = masks.sum().item() / (views.masks.sum().item() / 3)
    auxiliary = tuple(pick(frame) for frame in views.auxiliary)
    return Batch(pick(views.global_crops), pick(views.local_crops), auxiliary, masks, share)


def test_the_mean_over_micro_batches_is_the_global_batch() -> None:
    whole, split = (recorded_model(TINY_MODEL.model_copy(update={"loss": LossSettings(koleo=0)})) for _ in range(2))
    views = recorded_views()
    expected = whole(views, TEMPERATURE).losses
    expected["total"].backward()
    parts = [split(clips(views, [clip]), TEMPERATURE).losses for clip in range(3)]
    for name, value in expected.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-7)
    torch.autograd.backward([part["total"] / 3 for part in parts])
    whole.apply_center_update()
    split.apply_center_update()
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            gradient = split.get_parameter(name).grad
            assert gradient is not None
            assert (gradient - parameter.grad).abs().max() <= 1e-5
    torch.testing.assert_close(split.patch_center.center, whole.patch_center.center)
    torch.testing.assert_close(split.cls_center.center, whole.cls_center.center)


def test_one_auxiliary_frame_has_one_reconstruction_and_no_squeeze() -> None:
    views = recorded_views()
    losses = recorded_model()(replace(views, auxiliary=views.auxiliary[1:]), TEMPERATURE).losses
    assert losses.keys() == {"cls_local", "cls_global", "koleo", "reconstruction_1", "total"}
    expected = 0.8 * recorded("train_step")["out/loss/rec_future"].item()
    assert losses["reconstruction_1"].item() == pytest.approx(expected, rel=1e-5)


def test_squeeze_weight_zero_disables_the_loss() -> None:
    model = recorded_model(TINY_MODEL.model_copy(update={"loss": LossSettings(squeeze=0)}))
    losses = model(recorded_views(), TEMPERATURE).losses
    assert "squeeze" not in losses
    expected = recorded("train_step")["out/loss/total"] - 20 * recorded("train_step")["out/loss/squeeze_mse"]
    assert losses["total"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_auxiliary_branch_the_students_own_patches_are_distilled() -> None:
    model = recorded_model(TINY_MODEL.model_copy(update={"auxiliary_branch": False}))
    views = replace(recorded_views(), auxiliary=())
    losses = model(views, TEMPERATURE).losses
    assert losses.keys() == {"cls_local", "cls_global", "koleo", "patch", "total"}
    step = recorded("train_step")
    logits = model.student.cls_head(step["out/student/global/patch"][views.masks])
    entropy = -(step["out/teacher_patch_probs"] * (logits / 0.1).log_softmax(-1)).sum(-1)
    assert losses["patch"].item() == pytest.approx((entropy * step["in/masks_weight"]).sum().item() / 6, rel=1e-5)
    losses["total"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("auxiliary_branch", "frames"), [(True, 0), (False, 1), (True, 3)])
def test_a_batch_for_another_model_is_refused(auxiliary_branch: bool, frames: int) -> None:
    model = TCoRe(TINY_MODEL.model_copy(update={"auxiliary_branch": auxiliary_branch}))
    views = recorded_views()
    with pytest.raises(ValueError, match=f"the batch has {frames} auxiliary frames"):
        model(replace(views, auxiliary=views.auxiliary[:1] * frames), TEMPERATURE)


@pytest.mark.parametrize("drop_path", [0, 0.5])
def test_a_batch_without_masks_trains_all_parameters(drop_path: float) -> None:
    backbone = TINY_MODEL.backbone.model_copy(update={"drop_path": drop_path})
    model, views = recorded_model(TINY_MODEL.model_copy(update={"backbone": backbone})), recorded_views()
    losses = model(replace(views, masks=torch.zeros_like(views.masks), masked_loss_scale=0.0), TEMPERATURE).losses
    losses["total"].backward()
    assert losses["reconstruction_1"].item() == losses["squeeze"].item() == 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_compiled_parts_have_no_breaks_and_are_not_compiled_again_as_masks_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # inductor: see the losses
    _compiled_part.cache_clear()
    torch.compiler.reset()
    counters.clear()
    backbone = TINY_MODEL.backbone.model_copy(update={"drop_path": 0.3})
    model = recorded_model(TINY_MODEL.model_copy(update={"backbone": backbone})).train()
    model.compile_parts()
    graphs = []
    for crops, patches in ((3, 5), (4, 3), (2, 6), (5, 4), (6, 7)):
        masks = torch.zeros(6, 16, dtype=torch.bool)
        masks[:crops, :patches] = True
        model(replace(recorded_views(), masks=masks), TEMPERATURE).losses["total"].backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    assert graphs == [6] * 5  # the losses of CLS tokens and of patches; teacher, global, local and auxiliary crops


def test_only_the_student_draws_stochastic_depth() -> None:
    backbone = TINY_MODEL.backbone.model_copy(update={"drop_path": 0.5})
    model = recorded_model(TINY_MODEL.model_copy(update={"backbone": backbone})).train()
    views = recorded_views()
    assert torch.equal(model.teacher.backbone(views.global_crops).cls, model.teacher.backbone(views.global_crops).cls)
    first, second = (model.student.backbone(views.global_crops).cls for _ in range(2))
    assert not torch.equal(first, second)


def test_a_new_teacher_equals_the_student_and_then_follows_it() -> None:
    model = TCoRe(TINY_MODEL)
    student, teacher = model.student.backbone.norm.weight, model.teacher.backbone.norm.weight
    assert torch.equal(student, teacher)
    student.data += 1.0
    model.update_teacher(0.75)
    torch.testing.assert_close(teacher, torch.full_like(teacher, 1.25))


def test_the_teacher_of_a_frozen_backbone_stays_as_it_is_while_its_head_follows() -> None:
    model = TCoRe(TINY_MODEL)
    before = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    for parameter in model.student.parameters():
        parameter.data += 1.0
    model.student.backbone.requires_grad_(False)
    model.update_teacher(0.75)
    for name, tensor in model.teacher.named_parameters():
        assert torch.equal(tensor, before[name]) == name.startswith("backbone.")


def test_no_frozen_epochs_are_no_freeze() -> None:
    assert TCoReSettings(freeze_backbone_epochs=0) == TCoReSettings()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pmm\.heads = 7 must divide backbone\.width = 384"):
        TCoReSettings.model_validate({"pmm": {"heads": 7}})


def test_separate_heads_that_are_equal_compute_what_one_head_does() -> None:
    shared, split = recorded_model(), TCoRe(TINY_MODEL.model_copy(update={"separate_heads": True}))
    state = shared.state_dict()
    state |= {name.replace("cls_head", "patch_head"): tensor for name, tensor in state.items() if "cls_head" in name}
    split.load_state_dict(state)
    outputs = [model(recorded_views(), TEMPERATURE) for model in (shared, split)]
    for name, term in outputs[0].losses.items():
        torch.testing.assert_close(outputs[1].losses[name], term)
    torch.testing.assert_close(outputs[1].diagnostics, outputs[0].diagnostics)
    for part in outputs:
        part.losses["total"].backward()
    for name, parameter in shared.student.cls_head.named_parameters():
        first, second = (split.get_parameter(f"student.{head}.{name}").grad for head in ("cls_head", "patch_head"))
        assert first is not None
        assert second is not None
        assert parameter.grad is not None
        assert first.norm() > 0
        assert second.norm() > 0
        torch.testing.assert_close(first + second, parameter.grad, rtol=1e-4, atol=1e-6)


def test_an_unaligned_teacher_sees_the_auxiliary_frame() -> None:
    plain, other = (
        recorded_model(TINY_MODEL.model_copy(update={"auxiliary_branch": False, "teacher_sees": seen}))
        for seen in ("current", "auxiliary")
    )
    views = recorded_views()
    swapped = other(replace(views, auxiliary=views.auxiliary[:1]), TEMPERATURE)
    seen, unseen = (
        other.teacher_rows(crops, locate_masked_patches(views.masks, CPU)).cls_2bd
        for crops in (views.auxiliary[0], views.global_crops)
    )
    assert not torch.allclose(seen, unseen)
    same = other(replace(views, auxiliary=(views.global_crops,)), TEMPERATURE)
    aligned = plain(replace(views, auxiliary=()), TEMPERATURE)
    assert same.losses["total"].item() == pytest.approx(aligned.losses["total"].item(), rel=1e-6)
    assert swapped.losses["cls_local"].item() != pytest.approx(aligned.losses["cls_local"].item(), rel=1e-3)
