"""The presets of DINO and DINOv3 against naive versions of what their evaluation code does, from pixels to masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from evaluation.command import chosen_propagation, evaluation_command
from evaluation.davis import DAVIS
from evaluation.frames import Frame, Size, network_input
from evaluation.jhmdb import JHMDB
from evaluation.masks import MaskClip, MaskPropagation
from evaluation.vip import VIP
from pipeline.settings import UserError, parse_command
from tests.evaluation.trees import evaluate, patch_filter_extractor, write_sequence

Floats = NDArray[np.float64]
CONTEXT, TOP_K, RADIUS, PATCH = 7, 5, 12, 16


def clip(num_frames: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two textured squares that move over a moving texture, with noise in each frame, so that no features tie."""
    random = np.random.default_rng(0)
    texture = np.kron(random.integers(60, 200, (height // 8 + 8, width // 8 + 8, 3)), np.ones((8, 8, 1)))
    frames, masks = [], []
    for number in range(num_frames):
        frame = texture[number : number + height, 2 * number : 2 * number + width].copy()
        mask = np.zeros((height, width), np.uint8)
        for one, (top, left) in {1: (2, 20 + 5 * number), 4: (31, 130 - 4 * number)}.items():
            mask[top : top + 28, left : left + 30] = one
            frame[top : top + 28, left : left + 30, one % 3] += 50
        frames.append((frame + random.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


def bilinear(frame: NDArray[np.uint8], size: Size) -> Floats:
    """The four pixels around each point of the new grid, weighted, as OpenCV does without antialiasing."""
    axes = []
    for old, new in zip(frame.shape, size, strict=False):
        at = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        low = np.floor(at).astype(int)
        axes.append((low, np.minimum(low + 1, old - 1), at - low))
    (top, bottom, v), (left, right, u) = axes
    v, u = v[:, None, None], u[None, :, None]
    pixels = frame.astype(float)
    upper = pixels[top][:, left] * (1 - u) + pixels[top][:, right] * u
    lower = pixels[bottom][:, left] * (1 - u) + pixels[bottom][:, right] * u
    result: Floats = upper * (1 - v) + lower * v
    return result


def unit_features(pictures: list[Floats]) -> Floats:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rows = []
    for picture in pictures:
        image = torch.tensor((picture / 255 - mean) / std).permute(2, 0, 1)[None].float()
        tokens = patch_filter_extractor().patch_tokens(image)[0].double().numpy()
        rows.append(tokens.reshape(picture.shape[0] // PATCH, picture.shape[1] // PATCH, -1))
    features = np.stack(rows)
    unit: Floats = features / np.linalg.norm(features, axis=-1, keepdims=True)
    return unit


def naive_propagation(features: Floats, first: Floats, *, square: bool, temperature: float) -> list[Floats]:
    """Cell by cell: the first frame and up to seven before, those within the radius, the five most similar."""
    frames, height, width, _ = features.shape
    soft = [first]
    for number in range(1, frames):
        sources = [0, *range(max(1, number - CONTEXT), number)]
        labels = np.zeros_like(first)
        for y in range(height):
            for x in range(width):
                found = []
                for source in sources:
                    for v in range(max(0, y - RADIUS), min(height, y + RADIUS + 1)):
                        near = RADIUS if square else int((RADIUS**2 - (v - y) ** 2) ** 0.5)
                        span = slice(max(0, x - near), min(width, x + near + 1))
                        similarity = features[source, v, span] @ features[number, y, x]
                        found += [*zip(similarity, soft[source][v, span], strict=True)]
                found.sort(key=lambda pair: -pair[0])
                weights = np.exp([similarity / temperature for similarity, _ in found[:TOP_K]])
                labels[y, x] = weights @ np.stack([label for _, label in found[:TOP_K]]) / weights.sum()
        soft.append(labels)
    return soft


def stretched(channel: Floats) -> Floats:
    low, high = channel.min(), channel.max()
    return np.zeros_like(channel) if high == low else (channel - low) / (high - low)


def of_dino(frames: NDArray[np.uint8], mask: NDArray[np.uint8], ids: list[int], size: Size) -> list[Any]:
    features = unit_features([np.round(bilinear(frame, size)) for frame in frames])
    first = np.asarray(Image.fromarray(mask).resize((size[1] // PATCH, size[0] // PATCH), Image.Resampling.NEAREST))
    soft = naive_propagation(features, (first[..., None] == ids).astype(float), square=True, temperature=0.1)
    masks = []
    for labels in soft[1:]:
        large = F.interpolate(torch.tensor(labels).permute(2, 0, 1)[None], scale_factor=PATCH, mode="bilinear")[0]
        winner = np.argmax([stretched(channel) for channel in large.numpy()], 0).astype(np.uint8)
        winner = np.asarray(Image.fromarray(winner).resize(mask.shape[::-1], Image.Resampling.NEAREST))
        masks.append(np.array(ids)[winner])
    return masks


def of_dinov3(frames: NDArray[np.uint8], mask: NDArray[np.uint8], ids: list[int], size: Size) -> list[Any]:
    pictures = [Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC) for frame in frames]
    features = unit_features([np.asarray(picture, float) for picture in pictures])
    grid = (size[0] // PATCH, size[1] // PATCH)
    first = F.interpolate(torch.tensor(mask)[None, None].float(), grid, mode="nearest-exact")[0, 0].numpy()
    soft = naive_propagation(features, (first[..., None] == ids).astype(float), square=False, temperature=0.2)
    rows, columns = (np.arange(new) * old // new for old, new in zip(grid, mask.shape, strict=True))
    large = [np.stack([stretched(channel) for channel in np.moveaxis(labels, -1, 0)]) for labels in soft[1:]]
    return [np.array(ids)[labels.argmax(0)[rows[:, None], columns]] for labels in large]


@pytest.mark.parametrize(("name", "oracle", "size"), [("dino", of_dino, (112, 320)), ("dinov3", of_dinov3, (112, 384))])
def test_masks_are_those_of_a_naive_version(
    name: str, oracle: Any, size: Size, tmp_path: Path, patch_filter: None
) -> None:
    frames, masks = clip(4, 62, 206)
    write_sequence(tmp_path / "data", "one", frames, dict(enumerate(masks)))
    result = evaluate(DAVIS, tmp_path / "data", protocol=name, size=(112,))
    assert result["protocol"]["name"] == f"{name}, changed: size=112"
    assert result["protocol"]["side_multiple"] == (64 if name == "dino" else PATCH)
    expected = oracle(frames, masks[0], [0, 1, 4], size)
    assert np.unique(expected).tolist() == [0, 1, 4]
    for number, mask in enumerate(expected, start=1):
        with Image.open(tmp_path / "out" / "predictions" / "one" / f"{number:05d}.png") as image:
            assert (np.asarray(image) != mask).mean() < 1e-4  # float32 decides a few pixels on an edge


def chosen(*words: str) -> MaskPropagation:
    command = parse_command(evaluation_command(DAVIS), ["--data", "d", "--weights", "w", "--out", "o", *words])
    propagation = chosen_propagation(DAVIS, command)
    assert isinstance(propagation, MaskPropagation)
    return propagation


def sized(clip_size: Size, name: str, patch_size: int) -> Size:
    propagation = chosen("--protocol", name).fitted(patch_size)
    frames = [Frame(Path("0.jpg"), clip_size, 1)]
    return propagation.network_size(MaskClip("one", frames, [], [0], {}, np.zeros(clip_size, np.uint8), (0, 1)))


def test_network_sizes_of_davis() -> None:
    assert sized((480, 854), "t-core", 16) == (480, 880)
    assert sized((480, 854), "dino", 16) == (480, 832)
    assert sized((854, 480), "dino", 8) == (832, 480)
    assert sized((480, 854), "dinov3", 16) == (960, 1712)  # footnote 2 of the DINOv3 paper
    assert sized((480, 854), "dinov3", 14) == (966, 1722)  # the notebook rounds up: 1718.7 to 123 patches
    assert sized((1152, 480), "dinov3", 16) == (2304, 960)


def test_options_of_the_command_line_win_over_the_preset() -> None:
    assert chosen() == MaskPropagation()
    changed = chosen("--protocol", "dino", "--propagation.top_k", "7", "--size", "480,880")
    own = chosen("--protocol", "dino")
    assert changed.size == (480, 880)
    assert changed.propagation == own.propagation.model_copy(update={"top_k": 7})
    assert changed.resampling == "dino"


def test_one_option_of_a_group_leaves_the_others_at_the_values_of_the_benchmark() -> None:
    options = ["--data", "d", "--weights", "w", "--out", "o", "--propagation.n_context", "5"]
    propagation = chosen_propagation(VIP, parse_command(evaluation_command(VIP), options)).propagation
    assert (propagation.n_context, propagation.top_k) == (5, 10)


@pytest.mark.parametrize("benchmark", [VIP, JHMDB])
def test_a_benchmark_without_the_protocol_refuses_it(benchmark: Any) -> None:
    options = ["--data", "d", "--weights", "w", "--out", "o", "--protocol", "dino"]
    command = parse_command(evaluation_command(benchmark), options)
    with pytest.raises(UserError, match=f"--protocol dino: {benchmark.title} has no such protocol; allowed: t-core"):
        chosen_propagation(benchmark, command)


def test_frames_of_dino_are_rounded_to_8_bits() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = network_input(frame, (48, 64), "dino").permute(1, 2, 0).double().numpy()
    pixels = (image * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]) * 255
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-3)
    np.testing.assert_allclose(pixels, bilinear(frame, (48, 64)), atol=0.5 + 1e-3)
