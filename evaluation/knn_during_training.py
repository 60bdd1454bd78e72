"""k-NN classification by a backbone in memory, shared among ranks.

Each rank computes the features of its share of both sets and keeps those of the training set. All ranks search the
neighbours of all test samples in their own part, and the results are merged. The search is exact, so for given features
the scores do not depend on the number of ranks.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.benchmark import Scores
from evaluation.classes import Labeled, open_pair
from evaluation.knn_scores import POOLING, accuracies
from evaluation.ranks import of_all_ranks
from indexing.search import Block, Neighbours, Queries, Rules, merge, no_neighbours, search_block
from pipeline.settings import UserError
from training.backbone.vit import VisionTransformer

COUNTS = (10, 20)
TEMPERATURE = 0.07
_ROWS_AT_ONCE, _QUERIES_AT_ONCE = 32_768, 4096
"""Training and test samples in one product."""
_SAMPLES_AT_ONCE = 1024
"""Samples whose crops are averaged at once."""
_THREADS = 4
"""CPU threads of a rank that decode and resize."""
Proposal = tuple[NDArray[np.float32], NDArray[np.int64]]
"""What an `indexing.search.Nearest` returns."""


def spread_rows(count: int, most: int | None) -> NDArray[np.int64]:
    """All rows of a set, or `most` of them, evenly spaced."""
    used = count if most is None else min(count, most)
    return np.arange(used) * count // used


def nearest_on(device: torch.device, queries: NDArray[np.float32], base: Block, count: int) -> Proposal:
    """The `indexing.search.Nearest` of torch on a device."""
    rows = torch.from_numpy(base.features).to(device)
    similarity, positions = (torch.from_numpy(queries).to(device) @ rows.T).topk(count)
    return similarity.cpu().numpy(), positions.cpu().numpy()


class KnnDuringTraining:
    """Scorer of one rank; built before training, so that sets that do not fit are reported at once."""

    name: str = "knn"

    def __init__(
        self,
        train: Path,
        test: Path,
        frames: int,
        samples: int | None,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Open both sets.

        Raises:
            UserError: as `open_pair`, or the training set is too small.
        """
        self._pair = open_pair(train, test, ("--eval.knn", "--eval.knn_test"))
        self._rows = [spread_rows(len(one.label), samples) for one in (self._pair.train, self._pair.test)]
        if len(self._rows[0]) < max(COUNTS):
            raise UserError(
                f"--eval.knn {train}: k = {max(COUNTS)} needs as many samples; {len(self._rows[0])} are used"
            )
        self._frames, self._batch_size, self._device = frames, batch_size, device
        self._rank, self._ranks = rank, ranks

    @property
    def protocol(self) -> dict[str, Any]:
        """What the scores depend on beside the weights."""
        hashes = [one.dataset.manifest.dataset_hash for one in (self._pair.train, self._pair.test)]
        return {
            "k": list(COUNTS),
            "temperature": TEMPERATURE,
            "frames": self._frames,
            "samples": [len(rows) for rows in self._rows],
            "pooling": POOLING,
            "data": hashes,
        }

    def score(self, backbone: VisionTransformer) -> tuple[Scores, dict[str, str], dict[str, list[str]]]:
        """Scores of a backbone in eval mode, and failures and notes by name; all ranks call this.

        There are no scores if a rank fails.
        """
        failure, train, test = "", None, None
        try:
            train, test = (
                self._features(backbone, one, np.array_split(rows, self._ranks)[self._rank])
                for one, rows in zip((self._pair.train, self._pair.test), self._rows, strict=True)
            )
        except UserError as error:  # the other ranks must not wait for this one
            failure = str(error)
        tests, failures = zip(*of_all_ranks((test, failure)), strict=True)
        if failed := [message for message in failures if message]:
            return {}, {"k-NN": failed[0]}, {}
        assert train is not None
        found = self._search(train, np.concatenate(tests).astype(np.float32))
        labels = [one.label[rows] for one, rows in zip((self._pair.train, self._pair.test), self._rows, strict=True)]
        return accuracies(found.rows, found.similarity, (labels[0], labels[1]), COUNTS, TEMPERATURE), {}, {}

    def _features(self, backbone: VisionTransformer, samples: Labeled, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D) unit vectors of some rows."""
        from indexing.extract import CropFeatures  # loads DALI

        extract = CropFeatures(
            samples.dataset,
            lambda crops: backbone(crops).cls,
            backbone.settings.image_size,
            self._device,
            self._batch_size,
            _THREADS,
            self._frames,
        )
        source = f"the features of {samples.dataset.folder}"
        starts = range(0, len(rows), _SAMPLES_AT_ONCE)
        blocks = [extract(rows[start : start + _SAMPLES_AT_ONCE], source) for start in starts]
        return np.concatenate([np.empty((0, backbone.settings.width), np.float16), *blocks])

    def _search(self, own: NDArray[np.float16], queries: NDArray[np.float32]) -> Neighbours:
        """The neighbours of all (n, D) test features among the training features of all ranks."""
        k, device = max(COUNTS), self._device
        first = sum(map(len, np.array_split(self._rows[0], self._ranks)[: self._rank]))
        results = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            part = queries[start : start + _QUERIES_AT_ONCE]
            searched = Queries(np.full(len(part), -1), part)  # none of them is a training sample
            best = no_neighbours(len(part), k)
            for row in range(0, len(own), _ROWS_AT_ONCE):
                block = Block(first + row, own[row : row + _ROWS_AT_ONCE].astype(np.float32))
                best = search_block(searched, block, best, Rules(k), functools.partial(nearest_on, device))
            merged, *others = of_all_ranks(best)
            for other in others:
                merged = merge(merged, other.rows, other.similarity)
            results.append(merged)
        rows, similarity = (np.concatenate(columns) for columns in zip(*results, strict=True))
        return Neighbours(rows, similarity)
