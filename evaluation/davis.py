"""DAVIS-2017, semi-supervised: the masks of a clip's first frame are given, J and F judge those of the others.

Layout of the data set, as distributed:
    ImageSets/2017/val.txt            one sequence name a line
    JPEGImages/480p/SEQUENCE/*.jpg
    Annotations/480p/SEQUENCE/*.png   palette masks of object ids; 255 is void and counts as background

As in the official scorer, the objects are those of the first mask, the first and the last frame are not scored, and
the overall row is the mean over the objects of all sequences. Cases that the official data does not have: a frame
without a mask is left out of the score, an id that the first mask skips is no object (the official scorer would count
it as one that was found perfectly), and predicted ids that are no objects are background (the official scorer stops).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluation.command import DataCommand, EvaluationCommand, ScoreCommand, Size
from evaluation.davis_scores import DavisScoring, boundary_measure, mean_row, object_row, region_similarity
from evaluation.frames import read_index_mask, read_mask, shown_size
from evaluation.masks import Mask, MaskClip, MaskTask, find_files, size_of
from evaluation.propagation import PropagationSettings
from evaluation.task import Array, SequenceResult, check_sequence_name, chosen_sequences, frame_name, read_list
from pipeline.settings import UserError

COLUMNS = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


class DavisOptions(DataCommand):
    """What is scored, and how."""

    split: str = "val"
    """Which list of ImageSets/2017 to evaluate."""
    resolution: str = "480p"
    """Folder below JPEGImages and Annotations."""
    scoring: DavisScoring = DavisScoring()


class DavisScoreCommand(ScoreCommand, DavisOptions):
    """Score masks of anyone on DAVIS-2017 (J, F and their recall and decay)."""

    program: ClassVar[str] = "python -m evaluation score davis"


class DavisCommand(EvaluationCommand, DavisOptions):
    """Score frozen features on DAVIS-2017 by label propagation (J, F and their recall and decay)."""

    program: ClassVar[str] = "python -m evaluation davis"

    size: Size = (480, 880)
    """Height and width to which frames are stretched for the network, e.g. --size 480,880; multiples of the patch."""
    propagation: PropagationSettings = PropagationSettings()


class Davis(MaskTask):
    """DAVIS-2017 in one folder."""

    name = "davis"
    title = "DAVIS-2017"
    columns = COLUMNS
    detail = "object"

    def __init__(self, options: DavisOptions) -> None:
        self._options = options
        self._size = options.size if isinstance(options, DavisCommand) else (480, 880)
        self.propagation = options.propagation if isinstance(options, DavisCommand) else PropagationSettings()

    def _folder(self, kind: str) -> Path:
        return self._options.data / kind / self._options.resolution

    def smallest_size(self) -> tuple[int, int]:
        """The one size."""
        return self._size

    def names(self) -> list[str]:
        """The list of the split, or the sequences asked for."""
        options = self._options
        if options.sequences:
            return chosen_sequences(options.sequences, self._folder("JPEGImages"))
        return read_list(options.data / "ImageSets" / "2017" / f"{options.split}.txt")

    def open(self, name: str) -> MaskClip:
        """Collect frames and masks."""
        check_sequence_name(name)
        files = find_files(self._folder("JPEGImages") / name, self._folder("Annotations") / name)
        return self.make_clip(name, files, self._size)

    def read_mask(self, path: Path) -> Mask:
        """Object ids, void as background."""
        return read_index_mask(path)

    def load(self, path: Path, clip: MaskClip) -> Array:
        """A mask of the size of the annotations, as the official scorer demands; 255 is an id like any other."""
        mask = read_mask(path)
        size, expected = size_of(mask), size_of(clip.first_mask)
        if size != expected:
            raise UserError(f"the mask {path} measures {shown_size(size)}, the truth {shown_size(expected)}")
        return mask

    def is_scored(self, clip: MaskClip, number: int) -> bool:
        """Neither the first nor the last frame."""
        return number in clip.masks and 0 < number < len(clip.frames) - 1

    def compare(self, clip: MaskClip, truth: Array, prediction: Array) -> dict[int, tuple[float, float]]:
        """(J, F) of each object."""
        tolerance = self._options.scoring.boundary_tolerance
        return {
            one: (region_similarity(t, p), boundary_measure(t, p, tolerance))
            for one, t, p in ((one, truth == one, prediction == one) for one in clip.ids[1:])
        }

    def result(self, clip: MaskClip, judged: Mapping[int, Any]) -> SequenceResult:
        """Mean over the objects."""
        objects = clip.ids[1:]
        scoring = self._options.scoring
        skipped = sorted(set(range(1, objects[-1])) - set(objects))
        rows = {}
        for one in objects if judged else ():
            region, contour = zip(*(frame[one] for frame in judged.values()), strict=True)
            rows[str(one)] = object_row(region, contour, scoring)
        return SequenceResult(
            status="scored" if judged else "unscored",
            reason=None if judged else "no mask between the first and the last frame to score against",
            frames=len(clip.frames),
            frames_scored=len(judged),
            scores=mean_row(list(rows.values())) if judged else None,
            details=rows,
            over_time={
                frame_name(clip, number): float(np.mean(list(frame.values()))) for number, frame in judged.items()
            },
            notes=[f"the first mask has no object {one}: not counted" for one in skipped],
        )

    def summary(self, results: Sequence[SequenceResult]) -> dict[str, Any]:
        """Mean over the objects of all sequences."""
        return {"scores": mean_row([row for result in results for row in result.details.values()])}

    def protocol(self) -> dict[str, Any]:
        """Split, sizes, propagation, constants of the measures."""
        include = {"split", "sequences", "resolution", "size", "propagation", "scoring"}
        return self._options.model_dump(mode="json", include=include)
