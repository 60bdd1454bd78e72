"""Features that are given instead of computed."""

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
