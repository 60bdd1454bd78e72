import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evaluation.look.passes import Passes
from evaluation.look.principal import Moments, fit_colors


def stream(frames: Tensor) -> Passes:
    return Passes(lambda: iter(frames))


def test_constructed_features_have_the_colors_of_their_coordinates() -> None:
    """Every sum of +-3, +-2, +-1 along three axes once, far from the origin: the axes are the components."""
    axes = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))[0][:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    features = (signs * torch.tensor([3.0, 2.0, 1.0]) @ axes.T + 100).view(2, 2, 2, 7)
    colors = np.stack([fit_colors(stream(features)).colors(frame) for frame in features]).reshape(8, 3)
    np.testing.assert_allclose(colors, 127.5 + 255 / 4 * signs.numpy(), atol=1)  # one deviation of two: a quarter


def test_components_are_those_of_all_frames_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(5, 3, 4, 6, generator=generator) * torch.arange(1, 7) + 50
    moments = Moments()
    for frame in frames:
        moments.add(frame.flatten(0, 1))
    basis = moments.basis()
    assert basis is not None
    rows = frames.view(-1, 6).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    expected = vectors[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(np.asarray(basis.components_dk).T @ expected), np.eye(3), atol=1e-5)
    np.testing.assert_allclose(basis.deviation_k, np.sqrt(values[::-1][:3]), rtol=1e-5)
    assert (basis.components_dk.gather(0, basis.components_dk.abs().argmax(0, keepdim=True)) > 0).all()


def test_the_background_is_black_and_the_object_has_components_of_its_own() -> None:
    features = torch.zeros(2, 4, 4, 5)
    features[..., 0] = -10  # the border, also by its sign
    features[:, 1:3, 1:3, 0] = 10
    features[:, 1:3, 1, 3] = 1  # left of the object
    for sign in (1, -1):
        coloring = fit_colors(stream(sign * features), background=True)
        for frame in sign * features:
            colors = coloring.colors(frame).astype(int)
            assert not colors[0].any()
            assert not colors[:, 3].any()
            left, right = colors[1:3, 1, 0], colors[1:3, 2, 0]
            assert set(np.abs(left - right)) <= {127, 128}, "one deviation on each side of the mean"


def test_features_of_one_value_are_gray_and_few_dimensions_do() -> None:
    colors = fit_colors(stream(torch.ones(2, 3, 3, 2))).colors(torch.ones(3, 3, 2))
    assert set(np.unique(colors)) == {128}


def test_features_are_computed_once_while_they_fit_into_memory() -> None:
    calls = []

    def compute() -> Iterator[Tensor]:
        calls.append(1)
        return iter(torch.arange(12.0).view(3, 1, 2, 2))

    for most, expected in ((48, 2), (47, 3)):
        calls.clear()
        passes = Passes(compute, most)
        next(passes())  # a pass that is not finished keeps nothing
        for _ in range(2):
            assert torch.stack([*passes()]).sum() == 66
        assert len(calls) == expected
