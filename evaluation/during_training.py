"""DAVIS on a backbone that is in memory, from time to time during training: scores to log, and the best weights.

All ranks take part: each evaluates its share of the sequences, so that none waits for longer than its share and the
slowest other one take. What the ranks find is gathered, and every rank returns the same scores.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import distributed
from tqdm import tqdm

from evaluation.backbones import extractor_of
from evaluation.command import Size
from evaluation.davis import COLUMNS, Davis, DavisCommand
from evaluation.evaluate import Results, evaluate_clips, open_clips, summarize
from evaluation.task import Clip
from pipeline.files import write_bytes
from pipeline.reading import read_json_lines
from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Settings, UserError
from training.backbone.vit import VisionTransformer
from training.backbone.weights import read_card, save_backbone

BEST = "best.safetensors"
LOG = "evaluations.jsonl"


class EvalSettings(Settings):
    """DAVIS during training; left out without a folder."""

    davis: Path | None = None
    """DAVIS-2017 folder on which the teacher is scored."""
    every: int = Field(1000, ge=1, le=COUNT_LIMIT)
    """Steps between two evaluations; the last step is always evaluated."""
    split: str = "val"
    """Which list of ImageSets/2017."""
    sequences: tuple[str, ...] = ()
    """Only these sequences of it, for a quicker look."""
    size: Size = (480, 880)
    """Height and width of the network's input; multiples of the patch size."""
    batch_size: int = Field(4, ge=1, le=BATCH_LIMIT)
    """Frames that pass the network at once on a rank."""


class DavisDuringTraining:
    """Evaluates on one rank of several; made before training, so that a data set with faults stops nothing later."""

    files: tuple[str, ...] = (BEST, LOG)
    """What it writes into the folder of the run."""

    def __init__(
        self, settings: EvalSettings, out: Path, patch_size: int, device: torch.device, rank: int = 0, ranks: int = 1
    ) -> None:
        """Open all clips.

        Raises:
            UserError: there is no such data set, one of its sequences has a fault, or the size fits no patch grid.
        """
        assert settings.davis is not None
        if not settings.davis.is_dir():
            raise UserError(f"--eval.davis {settings.davis} is not a folder")
        if any(side < 1 or side % patch_size for side in settings.size):
            raise UserError(f"--eval.size {settings.size}: both must be multiples of the patch size {patch_size}")
        options = DavisCommand(
            data=settings.davis,
            weights=(Path(BEST),),
            out=out,
            split=settings.split,
            sequences=settings.sequences,
            size=settings.size,
        )
        self._task, self._settings, self._out, self._device = Davis(options), settings, out, device
        self._rank = rank
        names = self._task.names()
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

    def evaluate(self, backbone: VisionTransformer, step: int) -> dict[str, float]:
        """Score the backbone after `step` steps; all ranks call this. Empty if a sequence could not be scored.

        Rank 0 adds a line to `evaluations.jsonl`, in place of those of this and later steps, and writes the weights to
        `best.safetensors` if J&F is higher than ever before. Random numbers and the backbone's mode stay as they are.
        """
        started = time.perf_counter()
        was_training = backbone.training
        backbone.eval()
        try:
            results = self._gather(
                evaluate_clips(
                    self._task,
                    self.share,
                    extractor_of(backbone, self._device),
                    batch_size=self._settings.batch_size,
                    workers=2,
                    out=None,
                    label="DAVIS",
                    quiet=self._rank != 0,
                )
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
                    card = {"part": "teacher", "step": step, "davis": scores, "protocol": self._task.protocol()}
                    save_backbone(self._out / BEST, backbone, card)
        return {} if scores is None else {f"davis/{column}": scores[column] for column in COLUMNS}

    def best(self) -> float:
        """J&F of the best weights so far, of this or an earlier part of the run; -1 before the first ones."""
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
        known = read_json_lines(path) if path.is_file() else []
        earlier = [one for one in known if one.get("step", line["step"]) < line["step"]]
        write_bytes(path, b"".join(json.dumps(one).encode() + b"\n" for one in (*earlier, line)))
