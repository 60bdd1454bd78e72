from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.reference_data import read_json
from tests.training.recorded import TINY_VIT, assert_near, recorded, recorded_backbone
from training.backbone.vit import ARCHITECTURES, VisionTransformer, VitSettings, random_backbone


@pytest.mark.parametrize("size", ["64x64", "48x80", "80x48", "32x32", "112x112"])
def test_features_and_positions_at_every_recorded_size(size: str) -> None:
    arrays = recorded("backbone_eval")
    backbone = recorded_backbone("teacher.backbone.")
    image = arrays[f"{size}/image"]
    with torch.no_grad():
        tokens = backbone(image)
        positions = backbone.positions(image.shape[2] // 16, image.shape[3] // 16)
    assert_near(positions, arrays[f"{size}/pos_embed"], 1e-5)
    assert_near(torch.cat([tokens.cls[:, None], tokens.patches], dim=1), arrays[f"{size}/tokens_no_reg"], 1e-5)
    assert_near(tokens.cls, arrays[f"{size}/last_cls"], 1e-5)
    rows, columns = arrays[f"{size}/last_map"].shape[-2:]
    assert_near(tokens.patches.mT.unflatten(2, (rows, columns)), arrays[f"{size}/last_map"], 1e-5)


@pytest.mark.parametrize("resolution", [0, 1])
def test_stochastic_depth_forward_and_gradients(resolution: int) -> None:
    arrays = recorded("block_stochastic_depth")
    block = recorded_backbone("student.backbone.").blocks[0]
    tokens = arrays[f"in{resolution}"].clone().requires_grad_()
    out = block(tokens, (arrays[f"kept/attn{resolution}"], arrays[f"kept/ffn{resolution}"]))
    out.backward(arrays[f"gout{resolution}"])
    assert_near(out, arrays[f"out{resolution}"], 1e-5)
    assert tokens.grad is not None
    assert_near(tokens.grad, arrays[f"gin{resolution}"], 1e-5)


def test_stochastic_depth_parameter_gradients_sum_over_both_resolutions() -> None:
    arrays = recorded("block_stochastic_depth")
    block = recorded_backbone("student.backbone.").blocks[0]
    for resolution in (0, 1):
        kept = (arrays[f"kept/attn{resolution}"], arrays[f"kept/ffn{resolution}"])
        block(arrays[f"in{resolution}"], kept).backward(arrays[f"gout{resolution}"])
    parameters = dict(block.named_parameters())
    for name in ("ls1.gamma", "ls2.gamma", "mlp.fc2.bias"):
        gradient = parameters[name].grad
        assert gradient is not None
        assert_near(gradient, arrays[f"grad/{name}"], 1e-5)


@pytest.mark.parametrize(("batch", "kept"), [(1, 1), (6, 4), (9, 6), (10, 7)])
def test_training_evaluates_branches_on_the_floor_of_the_kept_share(batch: int, kept: int) -> None:
    backbone = VisionTransformer(TINY_VIT.model_copy(update={"drop_path": 0.3, "depth": 1}))
    rows: list[int] = []
    for name, module in backbone.blocks[0].named_children():
        if name in ("attn", "mlp"):
            module.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    images = torch.randn(batch, 3, 32, 32)
    backbone.train()(images)
    backbone.eval()(images)
    assert rows == [kept, kept, batch, batch]


def test_every_submodule_is_called_once() -> None:
    backbone = VisionTransformer(TINY_VIT).eval()
    called = Counter[str]()
    for name, module in backbone.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.update([name]))
    backbone(torch.randn(2, 3, 32, 32))
    assert called == Counter(name for name, module in backbone.named_modules() if not isinstance(module, nn.ModuleList))


def test_masked_patches_do_not_depend_on_their_pixels() -> None:
    backbone = recorded_backbone("student.backbone.")
    images = torch.randn(2, 3, 64, 64)
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, 0] = True
    changed = images.clone()
    changed[0, :, :16, :16] = 7.0
    for before, after in zip(backbone(images, masks), backbone(changed, masks), strict=True):
        torch.testing.assert_close(before, after)
    assert not torch.allclose(backbone(images).cls[0], backbone(changed).cls[0])


@pytest.mark.parametrize(("architecture", "recording"), [("small", "vits16"), ("base", "vitb16")])
def test_names_and_shapes_are_the_published_ones(architecture: str, recording: str) -> None:
    checkpoint = read_json("checkpoint_keys")[recording]["teacher_checkpoint"]["teacher"]
    published = {k.removeprefix("backbone."): tuple(v) for k, v in checkpoint.items() if k.startswith("backbone.")}
    with torch.device("meta"):
        state = VisionTransformer(VitSettings.model_validate({"architecture": architecture})).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published


def test_initial_values() -> None:
    backbone = random_backbone(VitSettings(width=128, depth=2, heads=2, image_size=64), seed=3)
    parameters = dict(backbone.named_parameters())
    assert parameters["blocks.1.mlp.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert parameters["pos_embed"].std().item() == pytest.approx(0.02, rel=0.1)
    assert parameters["blocks.0.ls1.gamma"].tolist() == pytest.approx([1e-5] * 128)
    assert parameters["cls_token"].abs().max().item() < 1e-5
    assert not parameters["mask_token"].any()
    assert not parameters["blocks.0.attn.qkv.bias"].any()


def test_random_backbone_follows_its_seed_and_leaves_the_global_one() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, again, other = (random_backbone(TINY_VIT, seed).pos_embed for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_architecture_name_gives_sizes_and_survives_a_dump() -> None:
    base = VitSettings(architecture="base", drop_path=0.2)
    assert (base.width, base.depth, base.heads, base.drop_path) == (768, 12, 12, 0.2)
    assert VitSettings.model_validate_json(base.model_dump_json()) == base
    assert VitSettings().model_dump(exclude={"architecture"}).items() >= ARCHITECTURES["small"].items()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architecture": "base", "width": 384}, "width 768, not 384"),
        ({"architecture": "huge"}, "'tiny', 'small', 'base' or 'large'"),
        ({"width": 100, "heads": 3}, "must divide width"),
        ({"image_size": 100}, "must divide image_size"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        VitSettings.model_validate(values)


def test_an_image_that_does_not_divide_into_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="64x40 pixels"):
        random_backbone(TINY_VIT, 0)(torch.zeros(1, 3, 64, 40))


def test_blocks_are_compiled_whole_and_compute_the_same() -> None:
    backbone = random_backbone(TINY_VIT.model_copy(update={"depth": 1, "drop_path": 0.5, "layer_scale": 1.0}), 0)
    images = torch.randn(4, 3, 32, 32)

    def step() -> list[Tensor]:
        """Patches and gradients with stochastic depth."""
        torch.manual_seed(0)
        patches = backbone.train()(images).patches
        return [patches, *torch.autograd.grad(patches.square().sum(), tuple(backbone.blocks.parameters()))]

    expected = step()
    for block in backbone.blocks:
        block.compile(
            backend="aot_eager", fullgraph=True
        )  # inductor takes a minute on the CPU: see the losses, and the test on a GPU
    for ours, theirs in zip(step(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
