from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluation.backbones import Extractor, PatchFeatures, open_checkpoint
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD
from pipeline.settings import UserError
from training.backbone.families import BackboneOptions
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone

CPU = torch.device("cpu")
TINY = VitSettings(width=32, depth=1, heads=2, image_size=32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_backbone(tmp_path / "weights.safetensors", random_backbone(TINY, seed=7), card={})
    return tmp_path / "weights.safetensors"


def features(extractor: Extractor, images: Tensor, batch_size: int = 2) -> Tensor:
    return torch.stack(list(extractor.stream(images, batch_size)))


def test_features_are_the_patch_tokens_of_the_saved_backbone_in_any_batch_size(weights: Path) -> None:
    images = torch.randn(5, 3, 48, 80)
    extractor = open_checkpoint(weights, "w", device=CPU).extractor
    with torch.no_grad():
        expected = random_backbone(TINY, seed=7)(images).patches.view(5, 3, 5, 32)
    for batch_size in (1, 2, 8):
        torch.testing.assert_close(features(extractor, images, batch_size), expected, rtol=1e-4, atol=1e-5)


def test_random_parameters_depend_on_the_seed_and_not_on_the_weights(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_backbone(other, random_backbone(TINY, seed=8), card={})
    images = torch.randn(1, 3, 32, 32)
    first, same, different = (
        features(open_checkpoint(file, "w", device=CPU, random_seed=seed).extractor, images)
        for file, seed in ((weights, 0), (other, 0), (weights, 2))
    )
    torch.testing.assert_close(first, same)
    assert not torch.allclose(first, different)


def test_no_more_frames_are_read_than_pass_at_once() -> None:
    read: list[int] = []

    def images() -> Iterator[Tensor]:
        for number in range(7):
            read.append(number)
            yield torch.zeros(3, 16, 16)

    extractor = Extractor(lambda batch: batch.flatten(2).transpose(1, 2)[:, :1], 16, CPU)
    stream = extractor.stream(images(), 3)
    next(stream)
    assert len(read) == 3
    assert len(list(stream)) == 6


@pytest.mark.parametrize("size", [(0, 16), (16, 17), (-16, 16)])
def test_sizes_that_do_not_divide_into_patches_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="multiples of the patch size 16"):
        Extractor(lambda images: images, 16, CPU).grid(size)


def test_broken_weights_are_refused_by_what_they_give() -> None:
    extractor = Extractor(lambda images: images.flatten(2).transpose(1, 2)[:, :1] * torch.nan, 16, CPU)
    with pytest.raises(UserError, match="NaN"):
        features(extractor, torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    "tokens", [lambda images: images, lambda images: images.new_zeros(1, 2, 8), lambda images: (1,)]
)
def test_anything_but_one_token_a_patch_is_refused(tokens: Any) -> None:
    with pytest.raises(UserError, match=r"expected is a tensor \(1, 1, 'D'\)"):
        features(Extractor(tokens, 16, CPU), torch.zeros(1, 3, 16, 16))


def write_official(path: Path, settings: VitSettings, seed: int) -> None:
    state = random_backbone(settings, seed).state_dict()
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()} | {"dino_head.mlp.0.weight": torch.ones(2)}
    torch.save({"teacher": teacher}, path)


def test_the_authors_checkpoint_gives_the_features_of_its_teacher(tmp_path: Path) -> None:
    settings = VitSettings(width=64, depth=2, heads=1, image_size=32)
    write_official(tmp_path / "teacher.pth", settings, seed=3)
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        expected = random_backbone(settings, seed=3)(images).patches.view(2, 2, 3, 64)
    options = BackboneOptions(heads=1)
    opened = open_checkpoint(tmp_path / "teacher.pth", "official", device=CPU, options=options)
    torch.testing.assert_close(features(opened.extractor, images), expected, rtol=1e-4, atol=1e-5)
    assert len(opened.origin["sha256"]) == 64


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.unfold(2, 16, 16).unfold(3, 16, 16).mean((4, 5)).flatten(2).mT


def my_network() -> PatchFeatures:
    network = Network()
    return PatchFeatures(network, network, patch_size=16, mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.25))


def my_failure() -> None:
    raise KeyError("width")


def my_mistake() -> Tensor:
    return torch.zeros(1)


def test_a_function_gives_features_of_images_normalized_as_it_says() -> None:
    opened = open_checkpoint(Path(f"{__name__}:my_network"), "mine", device=CPU)
    pixels = torch.rand(1, 3, 32, 48)
    images = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    theirs = (pixels - torch.tensor((0.5, 0.4, 0.3)).view(3, 1, 1)) / torch.tensor((0.5, 0.5, 0.25)).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(features(opened.extractor, images), Network()(theirs).view(1, 2, 3, 3))
    assert opened.origin["card"]["function"].endswith(":my_network")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("module", 3, r"module = 3, which must be a torch\.nn\.Module"),
        ("patch_tokens", None, "patch_tokens = None, which must be a function of images"),
        ("patch_size", 0, "patch_size = 0, which must be a whole number from 1"),
        ("patch_size", 16.0, r"patch_size = 16\.0, which"),
        ("mean", (0.5,), r"mean = \(0\.5,\), which must be three numbers"),
        ("std", (0.5, 0, 0.5), "std = .* must be three numbers above 0"),
        ("std", (0.5, float("nan"), 0.5), "std = .* must be three numbers above 0"),
    ],
)
def test_what_a_function_says_is_checked(field: str, value: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.my_mistake", lambda: my_network()._replace(**{field: value}))
    with pytest.raises(UserError, match=f"--weights {__name__}:my_mistake returns {words}"):
        open_checkpoint(Path(f"{__name__}:my_mistake"), "mine", device=CPU)


@pytest.mark.parametrize(
    ("name", "seed", "words"),
    [
        (f"{__name__}:my_network", 1, "--random_init needs weights in a file or folder"),
        (f"{__name__}:my_mistake", None, "returns a Tensor, not evaluation.backbones.PatchFeatures"),
        (f"{__name__}:absent", None, "is not a function that can be imported"),
        (f"{__name__}:my_failure", None, r"the call my_failure\(\) raised KeyError: 'width'"),
        ("no.such.module:f", None, r"is not a function .* \(No module named 'no'"),
    ],
)
def test_functions_that_give_no_features_are_refused(name: str, seed: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_checkpoint(Path(name), "mine", device=CPU, random_seed=seed)


def test_options_say_what_a_file_does_not(tmp_path: Path) -> None:
    state = random_backbone(VitSettings(width=32, depth=1, heads=4, registers=0, image_size=32), 0).state_dict()
    del state["mask_token"], state["register_tokens"]
    torch.save({name: tensor for name, tensor in state.items() if "gamma" not in name}, tmp_path / "plain.pth")
    with pytest.raises(UserError, match="give the option family"):
        open_checkpoint(tmp_path / "plain.pth", "plain", device=CPU)
    options = BackboneOptions(family="mae", heads=4)
    card = open_checkpoint(tmp_path / "plain.pth", "plain", device=CPU, options=options).origin["card"]
    assert (card["architecture"]["heads"], card["architecture"]["interpolation"]) == (4, "plain")
    assert card["architecture"]["layer_scale"] == 1, "without LayerScale nothing is scaled"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "without a readable config"),
        ('{"model_type": "bert"}', "of the type bert"),
        ('{"train": {}}', "python -m training.export"),
    ],
)
def test_folders_of_other_models_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path, "w", device=CPU)


def test_a_model_of_transformers_that_holds_code_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    torch.save({"weight": Namespace()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin holds the options of a training program") as refused:
        open_checkpoint(tmp_path, "w", device=CPU)
    assert "weights_only" not in str(refused.value)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"model\.safetensors is not a complete safetensors file"):
        open_checkpoint(tmp_path, "w", device=CPU)


def test_bf16_features_are_near_those_in_float32_but_not_the_same(weights: Path) -> None:
    images = torch.randn(2, 3, 48, 80)
    exact = features(open_checkpoint(weights, "w", device=CPU).extractor, images)
    coarse = features(open_checkpoint(weights, "w", device=CPU, precision="bf16").extractor, images).float()
    cosine = torch.nn.functional.cosine_similarity(exact, coarse, dim=-1)
    assert 0.999 < float(cosine.min()) < 0.9999999
    assert float((exact - coarse).abs().max()) > 1e-4
