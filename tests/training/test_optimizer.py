from typing import Any

import pytest
import torch

from tests.reference_data import read_json
from tests.training.recorded import TINY_MODEL, assert_near, our_name, recorded, recorded_model, recorded_values
from training.backbone.vit import VitSettings
from training.head import HeadSettings
from training.model import TCoRe, TCoReSettings
from training.optimizer import OptimizerSettings, apply_schedule, build_optimizer, clip_gradients, parameter_group
from training.schedules import StepValues

VALUES = StepValues(0.1, 0.01, 0.001, weight_decay=0.5, momentum=0.99, teacher_temperature=0.05)
PLAIN = OptimizerSettings(layer_decay=1, patch_embed_lr_factor=1)


def trained(model: TCoRe) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_groups_of_the_tiny_model_are_the_recorded_ones() -> None:
    recording = read_json("param_groups_tiny")
    expected = [
        [g[key] for key in ("name", "lr_multiplier", "wd_multiplier", "is_last_layer", "is_aux_layer")]
        for g in recording["groups"]
    ]
    check_groups(trained(TCoRe(TINY_MODEL)), 2, expected)


def test_groups_of_vit_small_are_the_recorded_ones() -> None:
    with torch.device("meta"):
        names = trained(TCoRe(TCoReSettings()))
    check_groups(names, 12, read_json("param_groups_vits16")["rows"])


def check_groups(names: list[str], depth: int, expected: list[list[Any]]) -> None:
    assert names == [our_name(row[0]) for row in expected]
    for name, (_, *values) in zip(names, expected, strict=True):
        assert parameter_group(name, depth, OptimizerSettings()) == pytest.approx(tuple(values), rel=1e-12)


def test_layer_decay_and_patch_factor_can_be_turned_off() -> None:
    assert {parameter_group(name, 2, PLAIN).lr_multiplier for name in trained(TCoRe(TINY_MODEL))} == {1.0}


def test_rates_of_a_step() -> None:
    model = TCoRe(TINY_MODEL)
    optimizer = build_optimizer(model, OptimizerSettings())
    apply_schedule(optimizer, VALUES)
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rates = {name: by_parameter[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    layer = "pmm.layers.0"
    for name, lr, weight_decay in (
        ("student.backbone.blocks.1.attn.qkv.weight", 0.09, 0.5),
        ("student.backbone.patch_embed.proj.bias", 0.1 * 0.9**3 * 0.2, 0.0),
        ("student.cls_head.mlp.0.weight", 0.1, 0.5),
        ("student.cls_head.last_layer.weight_g", 0.01, 0.5),
        (f"{layer}.linear.weight", 0.001, 0.5),
        (f"{layer}.norm1.weight", 0.001, 0.0),
    ):
        assert rates[name]["lr"] == pytest.approx(lr), name
        assert rates[name]["weight_decay"] == pytest.approx(weight_decay), name


def test_adamw_on_recorded_gradients_gives_the_recorded_parameters() -> None:
    step, gradients, after = (recorded(f"train_step{suffix}") for suffix in ("", "_grads", "_after"))
    model = recorded_model()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = gradients[f"grad/{name}"].clone()
    optimizer = build_optimizer(model, OptimizerSettings())
    norms = clip_gradients(model, step["hp/clip"].item())
    for name, official in (("backbone", "backbone"), ("head", "dino_head"), ("pmm", "auxiliary_decoder")):
        assert norms[name].item() == pytest.approx(step[f"out/grad_norm/{official}"].item(), rel=1e-5)
    apply_schedule(optimizer, recorded_values())
    optimizer.step()
    for name in trained(model):
        assert_near(model.get_parameter(name), after[f"after/{name}"], 1e-6)


def test_modules_are_clipped_each_by_itself() -> None:
    model = TCoRe(
        TCoReSettings(
            backbone=VitSettings(width=32, depth=1, heads=2, image_size=32),
            head=HeadSettings(hidden=8, bottleneck=4, prototypes=8),
            auxiliary_branch=False,
        )
    )
    for name in trained(model):
        parameter = model.get_parameter(name)
        parameter.grad = torch.full_like(parameter, 1.0 if "backbone" in name else 1e-4)
    norms = clip_gradients(model, 0.5)
    assert norms.keys() == {"backbone", "head"}
    assert norms["backbone"] > 0.5 > norms["head"]
    backbone_norm = torch.stack(
        [p.grad.norm() for p in model.student.backbone.parameters() if p.grad is not None]
    ).norm()
    assert backbone_norm.item() == pytest.approx(0.5, rel=1e-4)
    model.student.backbone.requires_grad_(False)
    assert clip_gradients(model, 0.5).keys() == {"head"}
    assert model.student.cls_head.last_layer.weight_g.grad is not None
    assert model.student.cls_head.last_layer.weight_g.grad.flatten().tolist() == pytest.approx([1e-4] * 8)
