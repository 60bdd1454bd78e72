"""`python -m evaluation linear`: a linear classifier on frozen features.

As in DINOv2 (dinov2/eval/linear.py), one pass trains a head for each learning rate of a grid: SGD with momentum and a
cosine schedule, on the same batches. Unlike there, features are computed once, without augmentation, and standardized
(as by the BatchNorm without parameters of MAE's probe), and the learning rate is chosen on a part of the training set
that is held out, never on the test set.
"""

import math
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor
from tqdm import tqdm

from evaluation.classes import Pair
from evaluation.command import PROGRAM
from evaluation.probe import Outcome, Probe, ProbeCommand, run_probe
from indexing.store import unpack
from pipeline.files import remove
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Seed, UserError
from pipeline.storage import open_storage
from training.backbone.device import default_device
from training.backbone.numerics import pin_float32

_RAW = ".linear"
_MOMENTUM = 0.9
_INITIAL_STD = 0.01
_CHUNK = 8192
Rates = tuple[Annotated[float, Field(gt=0, le=1000)], ...]


class LinearProbeCommand(ProbeCommand):
    """Score frozen features by a linear classifier that is trained on them.

    A head for each learning rate is trained in one pass. The one that is best on a tenth of the training set, which is
    held out, is scored on the test set. Writes OUT/linear.json, or OUT/linear-NAME.json for each of several weights.
    """

    program: ClassVar[str] = f"{PROGRAM} linear"

    rates: Rates = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    """Learning rates for a batch of 256, to which they are scaled in proportion; the default is DINOv2's grid."""
    steps: int = Field(12_500, ge=1, le=COUNT_LIMIT)
    """Steps of training."""
    head_batch_size: int = Field(1024, ge=1, le=BATCH_LIMIT)
    """Samples in a step, or all if there are fewer."""
    seed: Seed = 0
    """Seed of the initial weights, of the order of samples, and of what is held out."""

    @field_validator("rates")
    @classmethod
    def _at_least_one_rate(cls, rates: Rates) -> Rates:
        if not rates:
            raise ValueError("must be one or several positive numbers, e.g. 0.001,0.01,0.1")
        return tuple(sorted(set(rates)))


class Samples(NamedTuple):
    """Features and classes of some samples of an array that may be larger than memory."""

    features: NDArray[np.float16]
    """(N, D), mapped from a file."""
    label: NDArray[np.int64]
    """(N,)"""
    rows: NDArray[np.int64]
    """(n,) the samples that count."""


class Heads(NamedTuple):
    """Linear classifiers of standardized features, one for each learning rate."""

    weight: Tensor
    """(H, C, D)"""
    bias: Tensor
    """(H, C)"""
    mean: Tensor
    """(D,)"""
    std: Tensor
    """(D,)"""

    def logits(self, features: NDArray[np.float16]) -> tuple[Tensor, Tensor]:
        """Standardized features (n, D), and logits (H, n, C)."""
        given = torch.from_numpy(np.asarray(features, np.float32)).to(self.mean.device)
        x_nd = (given - self.mean) / self.std
        return x_nd, torch.baddbmm(self.bias[:, None], x_nd.expand(len(self.weight), -1, -1), self.weight.mT)


def held_out(label: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """(N,) which samples are held out: a tenth of each class, at least one where a class has two or more."""
    order = np.random.default_rng((seed, 1)).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    counts = np.bincount(label)
    rank = np.arange(len(label)) - (np.cumsum(counts) - counts)[label[order]]
    taken = np.where(counts > 1, np.maximum(1, counts // 10), 0)
    held = np.zeros(len(label), bool)
    held[order] = rank < taken[label[order]]
    return held


def _moments(samples: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (D,) of the features, read in blocks."""
    total = square = np.zeros(samples.features.shape[1])
    for start in range(0, len(samples.rows), _CHUNK):
        block = samples.features[samples.rows[start : start + _CHUNK]].astype(np.float64)
        total, square = total + block.sum(0), square + np.square(block).sum(0)
    mean = total / len(samples.rows)
    return mean, np.sqrt(np.maximum(square / len(samples.rows) - mean**2, 1e-12))


@torch.no_grad()
def train_heads(samples: Samples, classes: int, command: LinearProbeCommand, device: torch.device) -> Heads:
    """Train a head for each learning rate on the same batches; the result depends on settings and samples alone."""
    mean, std = (torch.from_numpy(values).float().to(device) for values in _moments(samples))
    generator = torch.Generator().manual_seed(command.seed)
    first = torch.empty(classes, len(mean)).normal_(0, _INITIAL_STD, generator=generator).to(device)
    weight = first.repeat(len(command.rates), 1, 1)
    heads = Heads(weight, weight.new_zeros(weight.shape[:2]), mean, std)
    batch = min(command.head_batch_size, len(samples.rows))
    rates = torch.tensor(command.rates, device=device)[:, None, None] * batch / 256
    weight_momentum, bias_momentum = torch.zeros_like(heads.weight), torch.zeros_like(heads.bias)
    a_pass, positions = len(samples.rows) // batch, torch.arange(batch, device=device)
    order = samples.rows
    for step in tqdm(range(command.steps), desc="linear", unit="step", mininterval=1):
        epoch, position = divmod(step, a_pass)
        if not position:
            order = np.random.default_rng((command.seed, 2, epoch)).permutation(samples.rows)
        rows = np.sort(order[position * batch : (position + 1) * batch])
        x_nd, logits_hnc = heads.logits(samples.features[rows])
        error_hnc = logits_hnc.softmax(-1)  # minus the one-hot targets: the gradient of the cross-entropy
        error_hnc[:, positions, torch.from_numpy(samples.label[rows]).to(device)] -= 1
        error_hnc /= batch
        weight_momentum.mul_(_MOMENTUM).add_(error_hnc.mT @ x_nd)
        bias_momentum.mul_(_MOMENTUM).add_(error_hnc.sum(1))
        now = rates * (1 + math.cos(math.pi * step / command.steps)) / 2
        heads.weight.sub_(now * weight_momentum)
        heads.bias.sub_(now[..., 0] * bias_momentum)
    return heads


@torch.no_grad()
def accuracy(heads: Heads, samples: Samples) -> NDArray[np.float64]:
    """Share (H,) of the samples that each head classifies correctly."""
    right = np.zeros(len(heads.weight), np.int64)
    for start in range(0, len(samples.rows), _CHUNK):
        rows = samples.rows[start : start + _CHUNK]
        predicted = heads.logits(samples.features[rows])[1].argmax(-1).cpu().numpy()
        right += (predicted == samples.label[rows]).sum(1)
    return right / len(samples.rows)


def run_linear(command: LinearProbeCommand) -> int:
    """Score all weights; raises as `run_probe`, and UserError if nothing can be held out."""

    def score(pair: Pair, train: Path, test: Path) -> Outcome:
        pin_float32()
        label, held = pair.train.label, held_out(pair.train.label, command.seed)
        if not held.any():
            raise UserError(f"--shards {command.shards}: every class has one sample, so none can be held out")
        scratch = open_storage(str(command.out / _RAW))
        arrays = []
        for name, folder in (("train", train), ("test", test)):
            unpack(open_storage(str(folder)), scratch, f"{name}.npy")
            arrays.append(np.load(command.out / _RAW / f"{name}.npy", mmap_mode="r"))
        device = torch.device(default_device())
        kept, chosen = (Samples(arrays[0], label, np.flatnonzero(part)) for part in (~held, held))
        heads = train_heads(kept, len(pair.classes), command, device)
        shares = accuracy(heads, chosen)
        best = int(shares.argmax())
        tested = accuracy(
            Heads(heads.weight[best : best + 1], heads.bias[best : best + 1], heads.mean, heads.std),
            Samples(arrays[1], pair.test.label, np.arange(len(pair.test.label))),
        )
        remove(command.out / _RAW)
        details = {
            "rate": command.rates[best],
            "chosen_on": f"{int(held.sum())} held-out samples of the training set",
            "held_out": dict(zip(map(str, command.rates), shares.tolist(), strict=True)),
        }
        return Outcome({"top1": float(tested[0])}, details)

    settings = ("rates", "steps", "head_batch_size", "seed", "frames")
    return run_probe(Probe("linear", "Linear probe", ("top1",), settings, score), command)
