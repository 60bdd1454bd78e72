"""Scores of the teacher at intervals during training, and the weights with the best score.

Each rank does its share; every rank returns the same scores.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, model_validator
from tqdm import tqdm

from evaluation.benchmark import Scores
from evaluation.davis import Davis
from evaluation.davis_during_training import DavisDuringTraining
from evaluation.frames import Size
from evaluation.knn_during_training import KnnDuringTraining
from pipeline.files import write_bytes
from pipeline.reading import read_json_lines
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Settings, UserError
from training.backbone.vit import VisionTransformer
from training.backbone.weights import backbone_sha256, read_card, save_backbone

BEST = "best.safetensors"
LOG = "evaluations.jsonl"


class EvalSettings(Settings):
    """Scores on DAVIS, by k-NN classification, or both; off without a folder."""

    davis: Path | None = None
    """DAVIS-2017 folder on which the teacher is scored."""
    knn: Path | None = None
    """Shards of the training set of a k-NN classification by the teacher's features."""
    knn_test: Path | None = None
    """Shards of its test set, of the same classes by name and without a sample of the training set."""
    every: int = Field(1000, ge=1, le=COUNT_LIMIT)
    """Steps between two evaluations; the last step is always evaluated."""
    best: Literal["auto", "davis/J&F-Mean", "knn/top1@10", "knn/top1@20"] = "auto"
    """Score by which the best weights are kept. auto: davis/J&F-Mean, or knn/top1@20 without DAVIS."""
    split: str = "val"
    """Which list of ImageSets/2017."""
    sequences: tuple[str, ...] = ()
    """Only these sequences, to save time."""
    size: Size = (480, 880)
    """Height and width of the network's input on DAVIS; multiples of the patch size."""
    knn_frames: int = Field(8, ge=1, le=COUNT_LIMIT)
    """Frames of a clip, evenly spaced, whose features are averaged."""
    knn_samples: int | None = Field(None, ge=20, le=COUNT_LIMIT)
    """At most this many samples of each set, evenly spaced, to save time. Default: all."""
    batch_size: int = Field(4, ge=1, le=BATCH_LIMIT)
    """Frames of DAVIS that pass the network at once on a rank."""
    knn_batch_size: int = Field(64, ge=1, le=BATCH_LIMIT)
    """Crops of the k-NN classification that pass the network at once on a rank."""

    @model_validator(mode="after")
    def _fits(self) -> "EvalSettings":
        if (self.knn is None) != (self.knn_test is None):
            raise ValueError("knn and knn_test are given together: shards of a training set and of a test set")
        task = self.best.partition("/")[0]
        if self.best != "auto" and getattr(self, task) is None:
            raise ValueError(f"best = {self.best} needs eval.{task}")
        return self

    @property
    def best_score(self) -> str:
        """Name of the score by which the best weights are kept."""
        if self.best != "auto":
            return self.best
        return "davis/J&F-Mean" if self.davis is not None else "knn/top1@20"


class Scorer(Protocol):
    """Scores a backbone in memory; all ranks have one."""

    name: str
    """Of the task: the first part of the names of its scores."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What the scores depend on beside the weights."""
        ...

    def score(self, backbone: VisionTransformer) -> tuple[Scores, dict[str, str], dict[str, list[str]]]:
        """Scores of a backbone in eval mode, and failures and notes by name; all ranks call this.

        Scores are empty if something fails, and equal on all ranks.
        """
        ...


class EvaluationDuringTraining:
    """Evaluator of one rank; built before training, so that faulty data is reported at once."""

    files: tuple[str, ...] = (BEST, LOG)
    """The files it writes into the folder of the run."""

    def __init__(
        self, settings: EvalSettings, out: Path, patch_size: int, device: torch.device, rank: int = 0, ranks: int = 1
    ) -> None:
        """Open all data.

        Raises:
            UserError: data is missing or faulty, or the size does not divide into patches.
        """
        self._settings, self._out, self._rank = settings, out, rank
        self.scorers: list[Scorer] = []
        if settings.davis is not None:
            if any(side < 1 or side % patch_size for side in settings.size):
                raise UserError(f"--eval.size {settings.size}: both must be multiples of the patch size {patch_size}")
            dataset = Davis(data=settings.davis, split=settings.split, sequences=settings.sequences)
            self.scorers.append(DavisDuringTraining(dataset, settings.size, settings.batch_size, device, rank, ranks))
        if settings.knn is not None and settings.knn_test is not None:
            self.scorers.append(
                KnnDuringTraining(
                    settings.knn,
                    settings.knn_test,
                    settings.knn_frames,
                    settings.knn_samples,
                    settings.knn_batch_size,
                    device,
                    rank,
                    ranks,
                )
            )

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        return step % self._settings.every == 0 or step == last_step

    def evaluate(
        self, backbone: VisionTransformer, step: int, origin: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Score the backbone after `step` steps, as `TASK/SCORE`; all ranks call this. A task that fails has no scores.

        Rank 0 appends a line to `evaluations.jsonl`, dropping those of this and later steps, and writes the weights to
        `best.safetensors`, with `origin` in their card, if the score named in the settings is the highest so far. The
        random state and the backbone's mode are unchanged.
        """
        started = time.perf_counter()
        was_training = backbone.training
        backbone.eval()
        scores: dict[str, float] = {}
        failed: dict[str, str] = {}
        notes: dict[str, list[str]] = {}
        try:
            for scorer in self.scorers:
                own, failures, remarks = scorer.score(backbone)
                scores |= {f"{scorer.name}/{name}": value for name, value in own.items()}
                failed |= failures
                notes |= remarks
        finally:
            backbone.train(was_training)
        if self._rank == 0:
            line = {"step": step, "scores": scores or None, "seconds": round(time.perf_counter() - started, 2)}
            self._log(line | ({"failed": failed} if failed else {}) | ({"notes": notes} if notes else {}))
            self._report(step, scores, failed)
            self._keep_best(backbone, step, scores, origin or {})
        return scores

    def _report(self, step: int, scores: Mapping[str, float], failed: Mapping[str, str]) -> None:
        main = {"davis/J&F-Mean": "DAVIS J&F", "knn/top1@10": "10-NN", "knn/top1@20": "20-NN"}
        told = [f"{title} {100 * scores[name]:.2f}" for name, title in main.items() if name in scores]
        if len(told) < len(self.scorers):
            told.append(f"no score: {next(iter(failed.values()), 'nothing to score')}")
        tqdm.write(f"step {step}: {', '.join(told)}")

    def _keep_best(
        self, backbone: VisionTransformer, step: int, scores: Mapping[str, float], origin: Mapping[str, Any]
    ) -> None:
        name = self._settings.best_score
        if name not in scores or scores[name] <= self.best():
            return
        protocols = {scorer.name: scorer.protocol for scorer in self.scorers}
        kept = {"best": name, "scores": dict(scores), "protocol": protocols}
        weights = {"part": "teacher", "steps": step, "weights_sha256": backbone_sha256(backbone)}
        save_backbone(self._out / BEST, backbone, {**origin, **weights, **kept})

    def best(self) -> float:
        """The score of the best weights so far, restarts included; -1 if there are none, or they have no such score."""
        if not (self._out / BEST).is_file():
            return -1.0
        return float(read_card(self._out / BEST).get("scores", {}).get(self._settings.best_score, -1.0))

    def _log(self, line: dict[str, Any]) -> None:
        path = self._out / LOG
        lines = read_json_lines(path) if path.is_file() else []
        earlier = [entry for entry in lines if entry.get("step", line["step"]) < line["step"]]
        write_bytes(path, b"".join(json.dumps(entry).encode() + b"\n" for entry in (*earlier, line)))
