"""DAVIS scores of a backbone in memory; each rank evaluates its share of the sequences."""

from typing import Any

import torch
from tqdm import tqdm

from evaluation.backbones import extractor_of
from evaluation.benchmark import Clip, Scores, Task, protocol, protocol_name
from evaluation.davis import DAVIS, Davis, DavisScoring
from evaluation.evaluate import evaluate_clips, open_clips, propagated, summarize
from evaluation.frames import Size
from evaluation.masks import MaskPropagation
from evaluation.ranks import of_all_ranks
from pipeline.settings import UserError
from training.backbone.vit import VisionTransformer


class DavisDuringTraining:
    """Scorer of one rank; built before training, so that a faulty data set is reported at once."""

    name: str = "davis"

    def __init__(
        self, dataset: Davis, size: Size, batch_size: int, device: torch.device, rank: int = 0, ranks: int = 1
    ) -> None:
        """Open all clips.

        Raises:
            UserError: the data set is missing, or a sequence is faulty.
        """
        if not dataset.data.is_dir():
            raise UserError(f"--eval.davis {dataset.data} is not a folder")
        self._task = Task(DAVIS.name, DAVIS.title, dataset, DavisScoring())
        self._propagation = MaskPropagation(size=size)
        self._batch_size, self._device, self._rank = batch_size, device, rank
        names = dataset.names()
        opened = open_clips(self._task, names)
        faults = [f"{name}: {clip.reason}" for name, clip in opened.items() if not isinstance(clip, Clip)]
        if faults:
            raise UserError(f"--eval.davis {dataset.data} cannot be evaluated: {faults[0]}")
        if rank == 0:
            for name, clip in opened.items():
                for note in clip.notes:
                    tqdm.write(f"--eval.davis {dataset.data}: {name}: {note}")
        self.share = {name: opened[name] for name in names[rank::ranks]}
        """The sequences of this rank."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What the scores depend on beside the weights."""
        name = protocol_name(self._task, self._propagation)
        return {"name": name, **protocol(self._task, self._propagation)}

    def score(self, backbone: VisionTransformer) -> tuple[Scores, dict[str, str], dict[str, list[str]]]:
        """Scores of a backbone in eval mode, and failures and notes by sequence; all ranks call this.

        There are no scores if a sequence fails.
        """
        predict = propagated(self._propagation, extractor_of(backbone, self._device), self._batch_size)
        label = "DAVIS" if self._rank == 0 else None
        own = evaluate_clips(self._task, self.share, predict, workers=2, label=label)
        results = {name: result for part in of_all_ranks(own) for name, result in part.items()}
        failed = {name: str(result.reason) for name, result in results.items() if result.status == "failed"}
        notes = {name: result.notes for name, result in results.items() if result.notes}
        return {} if failed else summarize(self._task, results)["scores"] or {}, failed, notes
