"""DAVIS scores of a backbone at intervals during training, and the weights with the best score.

Each rank evaluates its share of the sequences. The results are gathered, and every rank returns the same scores.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import distributed
from tqdm import tqdm

from evaluation.backbones import extractor_of
from evaluation.benchmark import Clip, Task, protocol, protocol_name
from evaluation.davis import DAVIS, Davis, DavisScoring
from evaluation.evaluate import Results, evaluate_clips, open_clips, propagated, summarize
from evaluation.frames import Size
from evaluation.masks import MaskPropagation
from pipeline.files import write_bytes
from pipeline.reading import read_json_lines
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Settings, UserError
from training.backbone.vit import VisionTransformer
from training.backbone.weights import read_card, save_backbone

BEST = "best.safetensors"
LOG = "evaluations.jsonl"


class EvalSettings(Settings):
    """DAVIS during training; off without a folder."""

    davis: Path | None = None
    """DAVIS-2017 folder on which the teacher is scored."""
    every: int = Field(1000, ge=1, le=COUNT_LIMIT)
    """Steps between two evaluations; the last step is always evaluated."""
    split: str = "val"
    """Which list of ImageSets/2017."""
    sequences: tuple[str, ...] = ()
    """Only these sequences, to save time."""
    size: Size = (480, 880)
    """Height and width of the network's input; multiples of the patch size."""
    batch_size: int = Field(4, ge=1, le=BATCH_LIMIT)
    """Frames that pass the network at once on a rank."""


class DavisDuringTraining:
    """Evaluator of one rank; built before training, so that a faulty data set is reported at once."""

    files: tuple[str, ...] = (BEST, LOG)
    """The files it writes into the folder of the run."""

    def __init__(
        self, settings: EvalSettings, out: Path, patch_size: int, device: torch.device, rank: int = 0, ranks: int = 1
    ) -> None:
        """Open all clips.

        Raises:
            UserError: the data set is missing, a sequence is faulty, or the size does not divide into patches.
        """
        assert settings.davis is not None
        if not settings.davis.is_dir():
            raise UserError(f"--eval.davis {settings.davis} is not a folder")
        if any(side < 1 or side % patch_size for side in settings.size):
            raise UserError(f"--eval.size {settings.size}: both must be multiples of the patch size {patch_size}")
        dataset = Davis(data=settings.davis, split=settings.split, sequences=settings.sequences)
        self._task = Task(DAVIS.name, DAVIS.title, dataset, DavisScoring())
        self._propagation = MaskPropagation(size=settings.size)
        self._settings, self._out, self._device, self._rank = settings, out, device, rank
        names = dataset.names()
        opened = open_clips(self._task, names)
        faults = [f"{name}: {clip.reason}" for name, clip in opened.items() if not isinstance(clip, Clip)]
        if faults:
            raise UserError(f"--eval.davis {settings.davis} cannot be evaluated: {faults[0]}")
        if rank == 0:
            for name, clip in opened.items():
                for note in clip.notes:
                    tqdm.write(f"--eval.davis {settings.davis}: {name}: {note}")
        self.share = {name: opened[name] for name in names[rank::ranks]}
        """The sequences of this rank."""

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        return step % self._settings.every == 0 or step == last_step

    def evaluate(
        self, backbone: VisionTransformer, step: int, origin: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Score the backbone after `step` steps; all ranks call this. Empty if a sequence fails.

        Rank 0 appends a line to `evaluations.jsonl`, dropping those of this and later steps, and writes the weights to
        `best.safetensors`, with `origin` in their card, if J&F is the highest so far. The random state and the
        backbone's mode are unchanged.
        """
        started = time.perf_counter()
        was_training = backbone.training
        backbone.eval()
        predict = propagated(self._propagation, extractor_of(backbone, self._device), self._settings.batch_size)
        try:
            results = self._gather(
                evaluate_clips(self._task, self.share, predict, workers=2, label="DAVIS" if self._rank == 0 else None)
            )
        finally:
            backbone.train(was_training)
        failed = {name: result.reason for name, result in results.items() if result.status == "failed"}
        notes = {name: result.notes for name, result in results.items() if result.notes}
        scores = None if failed else summarize(self._task, results)["scores"]
        if self._rank == 0:
            line = {"step": step, "scores": scores, "seconds": round(time.perf_counter() - started, 2)}
            self._log(line | ({"failed": failed} if failed else {}) | ({"notes": notes} if notes else {}))
            if scores is None:
                tqdm.write(f"step {step}: no DAVIS score: {next(iter(failed.values()), 'nothing to score')}")
            else:
                tqdm.write(f"step {step}: DAVIS J&F {100 * scores['J&F-Mean']:.2f}")
                if scores["J&F-Mean"] > self.best():
                    card = {
                        **(origin or {}),
                        "part": "teacher",
                        "step": step,
                        "davis": scores,
                        "protocol": {
                            "name": protocol_name(self._task, self._propagation),
                            **protocol(self._task, self._propagation),
                        },
                    }
                    save_backbone(self._out / BEST, backbone, card)
        return {} if scores is None else {f"davis/{column}": scores[column] for column in DavisScoring.columns}

    def best(self) -> float:
        """J&F of the best weights so far, restarts included; -1 if there are none."""
        if not (self._out / BEST).is_file():
            return -1.0
        return float(read_card(self._out / BEST).get("davis", {}).get("J&F-Mean", -1.0))

    def _gather(self, results: Results) -> Results:
        if not (distributed.is_available() and distributed.is_initialized()):
            return results
        parts: list[Results] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(parts, results)
        return {name: result for part in parts for name, result in part.items()}

    def _log(self, line: dict[str, Any]) -> None:
        path = self._out / LOG
        lines = read_json_lines(path) if path.is_file() else []
        earlier = [entry for entry in lines if entry.get("step", line["step"]) < line["step"]]
        write_bytes(path, b"".join(json.dumps(entry).encode() + b"\n" for entry in (*earlier, line)))
