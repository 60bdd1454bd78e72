"""Probes of frozen features by the classes of samples: what `knn` and `linear` have in common.

A sample's feature is the mean of the CLS tokens of some frames (`indexing.features`), scaled to unit length. Features
are kept in OUT/features by the hashes of dataset and weights, so that probes in one folder share them.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field

from evaluation.backbones import is_function
from evaluation.benchmark import Scores
from evaluation.classes import Pair, open_pair
from evaluation.command import PROGRAM, Weights, checkpoint_names, software, write_result
from evaluation.comparison import Row, mismatches, read_rows, row
from evaluation.knn_scores import POOLING
from evaluation.tables import comparison
from indexing.store import features_identity, has_features
from pipeline.dataset import ShardDataset
from pipeline.files import remove
from pipeline.outputs import claim
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, THREAD_LIMIT, WORKER_LIMIT, Command, UserError
from pipeline.storage import Folder, open_storage
from training.backbone.families import BackboneOptions
from training.backbone.source import source_sha256

FEATURES = "features"


class ProbeCommand(Command):
    """Options of all probes."""

    shards: Folder
    """Folder of the training set, a shard dataset whose samples have classes."""
    shards_test: Folder
    """Folder of the test set. Classes are matched by name; a sample that is in both sets is an error."""
    weights: Weights
    """Weights, several separated by commas: exports, files (.pth, .safetensors) of other projects, or folders of
    transformers."""
    backbone: BackboneOptions = BackboneOptions()
    """What the weights do not say."""
    out: Path
    """Folder for the result and the features; an earlier result in it is replaced."""
    frames: int = Field(8, ge=1, le=COUNT_LIMIT)
    """Frames of a clip, evenly spaced, whose features are averaged."""
    compare: tuple[Path, ...] = ()
    """Result files of earlier runs of this probe, to be shown in the same table."""
    batch_size: int = Field(64, ge=1, le=BATCH_LIMIT)
    """Images per forward pass."""
    threads: int = Field(1, ge=1, le=THREAD_LIMIT)
    """CPU threads of each process that computes features."""
    workers: int | None = Field(None, ge=0, le=WORKER_LIMIT)
    """Processes that compute features at once; default one per GPU, else cores / threads. 0: this one, without Ray."""


class Outcome(NamedTuple):
    """What a probe says about some weights."""

    scores: Scores
    details: dict[str, Any]
    """More to record."""


class Probe(NamedTuple):
    """A probe by its name and its way to score features."""

    name: str
    title: str
    columns: tuple[str, ...]
    """Names of the scores; the first is the main score."""
    settings: tuple[str, ...]
    """Options that change the scores."""
    score: Callable[[Pair, Path, Path], Outcome]
    """Scores the features in the folders of the training set and of the test set."""
    least: int = 1
    """Fewest training samples."""


def protocol_name(probe: Probe, command: ProbeCommand) -> str:
    """The name of the probe with the options that are not the default ones."""
    fields = type(command).model_fields
    values = {name: getattr(command, name) for name in probe.settings}
    changed = [
        f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in values.items()
        if value != fields[name].default
    ]
    return f"{probe.name}, changed: {', '.join(changed)}" if changed else probe.name


def run_probe(probe: Probe, command: ProbeCommand) -> int:
    """Score all weights, write a result file for each, and print a table.

    Raises:
        UserError: datasets or weights cannot be used, or the folder holds files of something else.
    """
    pair = open_pair(command.shards, command.shards_test)
    if len(pair.train.label) < probe.least:
        raise UserError(
            f"--shards {command.shards} has {len(pair.train.label)} samples; k = {probe.least} needs as many"
        )
    earlier = read_rows(command.compare, probe.name, probe.columns)
    for path in command.weights:
        if is_function(path):
            raise UserError(f"--weights {path}: a function gives patch features alone; {probe.name} needs CLS tokens")
    names = checkpoint_names(command.weights)
    results = [f"{probe.name}.json"] if len(names) == 1 else [f"{probe.name}-{name}.json" for name in names]
    claim(command.out, f"{PROGRAM} probes", (FEATURES,))
    for leftover in claim(command.out, f"{PROGRAM} {probe.name}", results):
        remove(leftover)
    rows: list[Row] = []
    for path, name, result in zip(command.weights, names, results, strict=True):
        record = _record(probe, command, pair, path, name)
        write_result(command.out / result, record)
        rows.append(row(name, record))
    rows += earlier
    print(f"\n{probe.title}, {POOLING}\n{comparison(probe.columns, rows)}")
    for sentence in mismatches(rows):
        print(f"note: {sentence}")
    print(f"Results and features: {command.out}")
    return 0


def _record(probe: Probe, command: ProbeCommand, pair: Pair, weights: Path, name: str) -> dict[str, Any]:
    """The content of the result file for some weights."""
    started = time.perf_counter()
    sha256 = source_sha256(weights, command.backbone)
    train, test = (
        _features(command, folder, labeled.dataset, weights, sha256)
        for folder, labeled in ((command.shards, pair.train), (command.shards_test, pair.test))
    )
    outcome = probe.score(pair, train, test)
    hashes = {"train": pair.train.dataset.manifest.dataset_hash, "test": pair.test.dataset.manifest.dataset_hash}
    settings = {setting: getattr(command, setting) for setting in probe.settings}
    return {
        "task": probe.name,
        "title": probe.title,
        "scores": outcome.scores,
        **outcome.details,
        "protocol": {"name": protocol_name(probe, command), **settings, "pooling": POOLING},
        "data": {
            "train": {"path": str(command.shards), "samples": len(pair.train.label), "sha256": hashes["train"]},
            "test": {"path": str(command.shards_test), "samples": len(pair.test.label), "sha256": hashes["test"]},
            "sha256": f"{hashes['train']} {hashes['test']}",
        },
        "weights": {"name": name, "path": str(weights), "sha256": sha256},
        "versions": software(),
        "seconds": round(time.perf_counter() - started, 2),
    }


def features_folder(out: Path, identity: Mapping[str, str]) -> Path:
    """Where features are kept, by what they depend on."""
    return out / FEATURES / "-".join(value[:16] for value in identity.values())


def _features(command: ProbeCommand, shards: str | Path, dataset: ShardDataset, weights: Path, sha256: str) -> Path:
    """The folder with the features of a dataset, which are computed unless they are there."""
    identity = features_identity(dataset.manifest.dataset_hash, sha256, command.frames)
    folder = features_folder(command.out, identity)
    if has_features(open_storage(str(folder)), identity, len(dataset)):
        print(f"features are up to date: {folder}")
        return folder
    from indexing.features import FeaturesCommand  # loads DALI and Ray
    from indexing.features import main as compute_features

    threads = torch.get_num_threads()
    compute_features(
        FeaturesCommand(
            shards=shards,
            weights=weights,
            backbone=command.backbone,
            out=str(folder),
            frames=command.frames,
            batch_size=command.batch_size,
            threads=command.threads,
            workers=command.workers,
        )
    )
    torch.set_num_threads(threads)  # without Ray the features are computed in this process
    return folder
