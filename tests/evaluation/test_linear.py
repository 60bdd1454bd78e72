import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.linear import LinearProbeCommand, Samples, accuracy, held_out, train_heads

CPU = torch.device("cpu")


def linear_command(**options: object) -> LinearProbeCommand:
    paths = {"shards": Path("train"), "shards_test": Path("test"), "weights": Path("w"), "out": Path("out")}
    return LinearProbeCommand.model_validate({**paths, **options})


def made(rows: int = 60, width: int = 8) -> Samples:
    """Features that classes shift a little; every third sample does not count."""
    random = np.random.default_rng(0)
    label = random.integers(0, 4, rows)
    features = (random.normal(size=(rows, width)) + label[:, None] * np.arange(width) / 8).astype(np.float16)
    return Samples(features, label, np.flatnonzero(np.arange(rows) % 3))


def test_every_head_is_that_of_sgd_with_momentum_by_autograd() -> None:
    samples = made()
    heads = train_heads(samples, 4, linear_command(rates=(0.5, 0.01), steps=30, head_batch_size=1000), CPU)
    x = samples.features[samples.rows].astype(np.float64)
    inputs = torch.from_numpy((x - x.mean(0)) / x.std(0)).float()
    targets = torch.from_numpy(samples.label[samples.rows])
    assert linear_command(rates=(0.5, 0.01)).rates == (0.01, 0.5)
    for number, rate in enumerate((0.01, 0.5)):
        head = nn.Linear(8, 4)
        with torch.no_grad():
            torch.nn.init.zeros_(head.bias)
            head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
        momenta = [torch.zeros_like(parameter) for parameter in head.parameters()]
        for step in range(30):
            loss = nn.functional.cross_entropy(head(inputs), targets)
            now = rate * len(x) / 256 * math.cos(math.pi * step / 60) ** 2  # half a cosine
            gradients = torch.autograd.grad(loss, list(head.parameters()))
            for parameter, momentum, gradient in zip(head.parameters(), momenta, gradients, strict=True):
                momentum.mul_(0.9).add_(gradient)
                parameter.data.sub_(now * momentum)
        np.testing.assert_allclose(heads.weight[number], head.weight.detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(heads.bias[number], head.bias.detach(), rtol=1e-4, atol=1e-5)
        right = (head(inputs).argmax(1) == targets).float().mean()
        assert accuracy(heads, samples)[number] == pytest.approx(float(right), abs=1e-6)


def test_batches_differ_and_the_same_command_gives_the_same_heads() -> None:
    samples, options = made(), linear_command(rates=(0.1,), steps=7, head_batch_size=16)
    first, again = (train_heads(samples, 4, options, CPU).weight for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, train_heads(samples, 4, options.model_copy(update={"seed": 1}), CPU).weight)


def test_a_tenth_of_each_class_is_held_out() -> None:
    label = np.repeat([0, 1, 3, 4], [100, 25, 3, 1])
    held = held_out(label, seed=0)
    assert np.bincount(label[held], minlength=5).tolist() == [10, 2, 0, 1, 0]
    assert np.array_equal(held, held_out(label, seed=0))
    assert not np.array_equal(held, held_out(label, seed=1))
