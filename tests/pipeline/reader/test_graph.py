"""Views of both back ends against Pillow and torchvision, recorded in `tests/reference/augment_ops.npz`."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from PIL import Image, ImageEnhance

from pipeline.reader.feed import Feed, box_feed, color_feed, frame_feed
from pipeline.reader.graph import ENCODED, build_decoder, build_graph, decode_frames
from pipeline.reader.mixture import EMPTY_JPEG
from pipeline.reader.pixels import ViewMaker, clip_inputs, crop_resize
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD, SOLARIZE_OFF, Boxes, ColorJitterParams
from tests.media import decode, jpeg, picture
from tests.reference_data import read_arrays

REFERENCE = read_arrays("augment_ops")
SIZE = 48
NEUTRAL: dict[str, Any] = {
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.0,
    "gray": False,
    "sigma": 0.0,
    "solarize": SOLARIZE_OFF,
}


def png(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return np.frombuffer(stream.getvalue(), np.uint8)


def photometry(cases: list[dict[str, Any]]) -> ColorJitterParams:
    """Views (n,) with the colors of n cases."""
    return ColorJitterParams(**{name: np.array([{**NEUTRAL, **case}[name] for case in cases]) for name in NEUTRAL})


def dali_views(feed: Feed, device: int | None) -> Iterator[np.ndarray]:
    views = len(feed["encoded"])
    (output,) = build_graph(views, lambda: feed, threads=1, device_id=device, prefetch=1).run()
    return (np.asarray((output if device is None else output.as_cpu()).at(i)) for i in range(views))


def torch_views(images: list[np.ndarray], feed: Feed, size: int) -> Iterator[np.ndarray]:
    maker = ViewMaker()
    for number, image in enumerate(images):
        (inputs,) = clip_inputs(feed, number, len(images))
        crop = crop_resize(torch.from_numpy(image.copy()), inputs.start, inputs.shape, size)
        yield maker.view(crop, inputs).numpy()


def run(
    images: list[np.ndarray],
    boxes: list[tuple[int, int, int, int]],
    cases: list[dict[str, Any]],
    size: int,
    mirror: int = 0,
    device: int | None = None,
    backend: str = "dali",
) -> list[np.ndarray]:
    """(size, size, 3) pixels, 0 to 255, of each image as the one view of a sample."""
    views = len(images)
    edges = Boxes(*(np.array(edge) for edge in zip(*boxes, strict=True)))
    feed: Feed = frame_feed([[png(image) for image in images]], np.ones((views, 1), bool), [1])
    feed |= box_feed(edges) | color_feed(photometry(cases))
    feed |= {"needed": np.ones(views, bool), "mirror": np.full(views, mirror, np.int32)}
    feed["size"] = np.full((views, 2), size, np.float32)
    result = torch_views(images, feed, size) if backend == "torch" else dali_views(feed, device)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    return [255 * (view.transpose(1, 2, 0) * std + mean) for view in result]


@pytest.fixture(scope="module", params=["dali", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("size", [32, 48, 96])
def test_crop_and_bicubic_resize_match_pillow(size: int, backend: str) -> None:
    boxes = [tuple(row) for row in REFERENCE["crop_params"].tolist()]
    result = run([REFERENCE["image"]] * 4, boxes, [{}] * 4, size, backend=backend)
    for number, view in enumerate(result):
        difference = np.abs(view - REFERENCE[f"crop{number}_bicubic_{size}"])
        assert difference.max() <= 2, "also at the crop's edge"
        assert difference.mean() < 0.25, "Pillow computes with 8 bits of weight"


def squares() -> tuple[list[np.ndarray], list[tuple[slice, slice]]]:
    """Square parts of the reference image, which views of their size do not resize, and their slices."""
    slices = [(slice(0, SIZE), slice(0, SIZE)), (slice(12, 60), slice(36, 84))]
    return [REFERENCE["image"][part] for part in slices], slices


WHOLE = (0, 0, SIZE, SIZE)
# name: parameters, largest and mean difference in gray levels. Pillow rounds after every operation.
POINTWISE: dict[str, tuple[dict[str, Any], float, float]] = {
    **{f"brightness_{factor}": ({"brightness": factor}, 1, 0.6) for factor in (0.6, 0.85, 1.4)},
    **{f"saturation_{factor}": ({"saturation": factor}, 1.5, 0.6) for factor in (0.8, 1.2)},
    "grayscale3": ({"gray": True}, 1, 0.6),
    "solarize_128": ({"solarize": 128}, 0.01, 0.01),
}


@pytest.fixture(scope="module")
def pointwise_views(backend: str) -> dict[str, list[np.ndarray]]:
    """Views of both squares for every pointwise operation and without any."""
    images, _ = squares()
    cases = {name: case for name, (case, _, _) in POINTWISE.items()} | {"nothing": {}}
    colors = [case for case in cases.values() for _ in images]
    views = run(images * len(cases), [WHOLE] * 2 * len(cases), colors, SIZE, backend=backend)
    return {name: views[2 * number : 2 * number + 2] for number, name in enumerate(cases)}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_operations_match_torchvision(name: str, pointwise_views: dict[str, list[np.ndarray]]) -> None:
    _, largest, mean = POINTWISE[name]
    for ours, part in zip(pointwise_views[name], squares()[1], strict=True):
        difference = np.abs(ours - REFERENCE[name][part])
        assert difference.max() <= largest
        assert difference.mean() <= mean


def test_neutral_parameters_keep_every_pixel(pointwise_views: dict[str, list[np.ndarray]]) -> None:
    for ours, image in zip(pointwise_views["nothing"], squares()[0], strict=True):
        np.testing.assert_allclose(ours, image, atol=1e-3)


def square(name: str) -> np.ndarray:
    """A recorded operation on the whole image, stretched to a square of twice its height."""
    return np.asarray(Image.fromarray(REFERENCE[name]).resize((120, 120), Image.Resampling.NEAREST), float)


@pytest.mark.parametrize("factor", [0.6, 0.85, 1.4])
def test_contrast_matches_torchvision(factor: float, backend: str) -> None:
    # stretching by nearest pixels changes the mean by little, and commutes with what is done to single pixels
    case = {"contrast": factor}
    (view,) = run([square("image").astype(np.uint8)], [(0, 0, 120, 120)], [case], 120, backend=backend)
    difference = np.abs(view - square(f"contrast_{factor}"))
    assert difference.max() <= 2
    assert difference.mean() < 0.7


def test_contrast_uses_the_mean_of_the_brightened_view(backend: str) -> None:
    image = squares()[0][0]
    brightened = ImageEnhance.Brightness(Image.fromarray(image)).enhance(0.6)
    expected = np.asarray(ImageEnhance.Contrast(brightened).enhance(0.6), float)
    (view,) = run([image], [WHOLE], [{"brightness": 0.6, "contrast": 0.6}], SIZE, backend=backend)
    assert np.abs(view - expected).max() <= 2


@pytest.mark.parametrize(("shift", "largest", "mean"), [(-0.1, 53, 12), (0.03, 18, 4.6), (0.1, 52, 12)])
def test_hue_is_close_to_torchvision(shift: float, largest: float, mean: float, backend: str) -> None:
    # torchvision rotates hue in HSV, which is not linear; this image of pure colors is the worst case
    (view,) = run([square("image").astype(np.uint8)], [(0, 0, 120, 120)], [{"hue": shift}], 120, backend=backend)
    change, expected = view - square("image"), square(f"hue_{shift}") - square("image")
    assert np.corrcoef(change.ravel(), expected.ravel())[0, 1] > 0.75
    assert np.abs(change - expected).max() <= largest
    assert np.abs(change - expected).mean() <= mean < np.abs(expected).mean()


@pytest.mark.parametrize("shift", [-0.1, 0.1])
def test_hue_of_dull_colors_differs_by_two_levels(shift: float) -> None:
    pure = squares()[0][0].astype(float)
    image = (0.8 * pure.mean(axis=2, keepdims=True) + 0.2 * pure).astype(np.uint8)
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).copy()
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)
    expected = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"), float)
    (view,) = run([image], [WHOLE], [{"hue": shift}], SIZE)
    assert np.abs(view - expected).mean() < 2.5 < np.abs(image - expected).mean()


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
def test_blur_matches_torchvision(sigma: float, backend: str) -> None:
    images, slices = squares()
    # reflection at a side of a square matches only where the side is one of the image
    known = [(slice(None, -4), slice(None, -4)), (slice(4, None), slice(4, None))]
    views = run(images, [WHOLE] * 2, [{"sigma": sigma}] * 2, SIZE, backend=backend)
    for ours, part, inner in zip(views, slices, known, strict=True):
        difference = np.abs(ours - REFERENCE[f"blur9_sigma_{sigma}"][part])
        assert difference[inner].max() <= 0.51, "torchvision rounds to whole levels"


def test_mirror_and_normalization(backend: str) -> None:
    images, slices = squares()
    for ours, part in zip(run(images, [WHOLE] * 2, [{}] * 2, SIZE, mirror=1, backend=backend), slices, strict=True):
        np.testing.assert_allclose(ours, REFERENCE["hflip"][:, ::-1][part][:, ::-1], atol=1e-3)
    expected = REFERENCE["normalized"].transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    np.testing.assert_allclose(255 * expected, REFERENCE["image"], atol=1e-3)


CASES: list[dict[str, Any]] = [
    {"brightness": 1.2, "contrast": 0.8, "saturation": 1.1, "hue": 0.05, "sigma": 1.0, "solarize": 128},
    {"gray": True, "contrast": 1.4},
    {"sigma": 0.3},
]


@pytest.mark.parametrize(("size", "mirror"), [(48, 0), (33, 1), (98, 0)])
def test_torch_makes_the_views_of_dali(size: int, mirror: int) -> None:
    arguments = ([squares()[0][0]] * 3, [(3, 5, 40, 42), WHOLE, (0, 8, 48, 20)], CASES, size, mirror)
    for ours, theirs in zip(run(*arguments, backend="torch"), run(*arguments), strict=True):
        assert np.abs(ours - theirs).max() <= 2
        assert np.abs(ours - theirs).mean() < 0.3


def test_views_that_are_not_needed_are_zeros() -> None:
    first, second = (png(image) for image in squares()[0])
    needed = np.array([[True, True, True], [True, True, True], [True, False, True], [False, False, True]])
    # two views of one frame of three clips, and of another frame of the first and the last clip
    frames = [[first] * 3, [second, EMPTY_JPEG, second]]
    feed = frame_feed(frames, np.stack([needed[0], needed[2] | needed[3]], axis=1), [2, 2])
    feed |= box_feed(Boxes(*(np.full(12, edge) for edge in WHOLE))) | color_feed(photometry([{}] * 12))
    feed |= {"needed": needed.ravel(), "mirror": np.zeros(12, np.int32), "size": np.full((12, 2), SIZE, np.float32)}
    (output,) = build_graph(12, lambda: feed, threads=1, device_id=None, prefetch=1).run()
    pixels = np.asarray(output.as_tensor()).reshape(4, 3, 3, SIZE, SIZE)
    expected = run(squares()[0], [WHOLE] * 2, [{}] * 2, SIZE)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for view, clip in np.ndindex(4, 3):
        assert pixels[view, clip].any() == needed[view, clip]
        if needed[view, clip]:
            shown = (255 * (pixels[view, clip] * std + mean)).transpose(1, 2, 0)
            np.testing.assert_allclose(shown, expected[view // 2], atol=1e-3)


def test_the_decoder_of_the_gpu_upsamples_chroma_like_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(fn.decoders, "image", lambda encoded, **arguments: calls.append(arguments))
    decode_frames(None, on_gpu=True)
    decode_frames(None, on_gpu=False)
    assert [call["device"] for call in calls] == ["mixed", "cpu"]
    assert all(call["jpeg_fancy_upsampling"] and not call["adjust_orientation"] for call in calls)


@pytest.mark.gpu
def test_the_gpu_decodes_the_pixels_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    frame = jpeg(picture(160, 176, seed=0), quality=90)  # chroma of half the resolution
    decoder = build_decoder(0)
    decoder.feed_input(ENCODED, [np.frombuffer(frame, np.uint8)])
    (output,) = decoder.run()
    difference = np.asarray(output.as_cpu().at(0)).astype(int) - decode(frame)
    assert np.abs(difference).mean() < 0.15  # rounding; with chroma repeated, 0.15 to 1.7


@pytest.mark.gpu
def test_views_on_the_gpu_match_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    images, _ = squares()
    arguments = (images, [(3, 5, 40, 42), WHOLE], CASES[:2], 32)
    for cpu, gpu in zip(run(*arguments), run(*arguments, device=0), strict=True):
        assert np.abs(cpu - gpu).mean() < 0.5
