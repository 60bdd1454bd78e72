"""Features that are given instead of computed, and k-NN classification by brute force."""

from pathlib import Path

import numpy as np

from evaluation.classes import Pair
from evaluation.command import PROGRAM
from evaluation.probe import FEATURES, ProbeCommand, features_folder
from indexing.store import features_identity, write_features
from pipeline.files import sha256_file
from pipeline.outputs import claim
from pipeline.storage import open_storage


def put_features(out: Path, pair: Pair, weights: Path, train: np.ndarray, test: np.ndarray) -> None:
    """Write a file of weights, and the features (N, D) of both sets that a probe would compute by it for `out`."""
    weights.write_text(weights.stem)
    claim(out, f"{PROGRAM} probes", (FEATURES,))
    frames = ProbeCommand.model_fields["frames"].default
    for labeled, features in ((pair.train, train), (pair.test, test)):
        dataset = labeled.dataset
        identity = features_identity(dataset.manifest.dataset_hash, sha256_file(weights), frames)
        storage = open_storage(str(features_folder(out, identity)))
        write_features(storage, dataset.keys, [features.astype(np.float16)], features.shape[1], identity)


def brute_force(train: np.ndarray, label: np.ndarray, queries: np.ndarray, k: int, temperature: float) -> list[int]:
    """One query after the other, with a full sort of (-similarity, row) and a dict of votes."""
    predicted = []
    for query in queries.astype(np.float64):
        similarity = train.astype(np.float64) @ query
        votes: dict[int, float] = {}
        for row in sorted(range(len(train)), key=lambda row: (-similarity[row], row))[:k]:
            votes[int(label[row])] = votes.get(int(label[row]), 0) + np.exp(similarity[row] / temperature)
        most = max(votes.values())
        predicted.append(min(number for number, vote in votes.items() if vote == most))
    return predicted
