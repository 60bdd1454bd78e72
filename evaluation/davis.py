"""DAVIS-2017, semi-supervised: the masks of a clip's first frame are given, J and F score those of the others.

Layout of the data set, as distributed:
    ImageSets/2017/val.txt            one sequence name per line
    JPEGImages/480p/SEQUENCE/*.jpg
    Annotations/480p/SEQUENCE/*.png   palette masks of object ids; 255 is void and counts as background

As in the official scorer, the objects are those of the first mask, the first and the last frame are not scored, and
the overall row is the mean over the objects of all sequences. Cases that the official data does not have: a frame
without a mask is not scored, an id that the first mask skips is not an object (the official scorer would count it as a
perfect one), and predicted ids that are not objects are background (the official scorer stops).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from evaluation.benchmark import Array, Benchmark, ClipScores, SequenceResult, mean_row
from evaluation.davis_scores import boundary_measure, object_row, region_similarity
from evaluation.masks import MaskClip, MaskDataset, MaskPropagation, MaskScoring
from evaluation.sequences import read_list


class Davis(MaskDataset):
    """DAVIS-2017 in one folder."""

    split: str = "val"
    """Which list of ImageSets/2017 to evaluate."""
    resolution: str = "480p"
    """Folder below JPEGImages and Annotations."""

    @property
    def frame_root(self) -> Path:
        """JPEGImages."""
        return self.data / "JPEGImages" / self.resolution

    @property
    def mask_root(self) -> Path:
        """Annotations."""
        return self.data / "Annotations" / self.resolution

    def listed(self) -> list[str]:
        """The list of the split."""
        return read_list(self.data / "ImageSets" / "2017" / f"{self.split}.txt")


class DavisScoring(MaskScoring):
    """Region similarity J and boundary measure F; the defaults are the constants of the official scorer."""

    columns: ClassVar = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    unscored: ClassVar[str] = "no mask between the first and the last frame to score against"

    boundary_tolerance: float = Field(default=0.008, gt=0, le=1)
    """Distance up to which two boundary pixels match, as a fraction of the image diagonal, rounded up to pixels."""
    recall_threshold: float = Field(default=0.5, ge=0, le=1)
    """Recall is the share of frames above this."""
    decay_bins: int = Field(default=4, ge=1, le=1000)
    """A sequence is cut into this many parts; decay is the mean of the first minus that of the last."""

    def scored_frames(self, clip: MaskClip) -> range:
        """All but the first and the last frame."""
        return range(1, len(clip.frames) - 1)

    def compare(self, clip: MaskClip, truth: Array, prediction: Array) -> dict[int, tuple[float, float]]:
        """(J, F) of each object."""
        masks = {one: (truth == one, prediction == one) for one in clip.ids[1:]}
        return {
            one: (region_similarity(*pair), boundary_measure(*pair, self.boundary_tolerance))
            for one, pair in masks.items()
        }

    def result(self, clip: MaskClip, compared: Mapping[int, Any]) -> ClipScores:
        """Mean over the objects."""
        rows = {}
        for one in clip.ids[1:]:
            region, contour = zip(*(frame[one] for frame in compared.values()), strict=True)
            rows[str(one)] = object_row(region, contour, self.recall_threshold, self.decay_bins)
        over_time = {index: float(np.mean(list(frame.values()))) for index, frame in compared.items()}
        return ClipScores(mean_row(list(rows.values())), rows, over_time)

    def notes(self, clip: MaskClip, observed: Mapping[int, Any]) -> list[str]:
        """As for all masks, and ids that the first mask skips."""
        skipped = sorted(set(range(1, clip.ids[-1])) - set(clip.ids))
        notes = [f"the first mask has no object {one}: not counted" for one in skipped]
        return super().notes(clip, observed) + notes

    def summary(self, results: Sequence[SequenceResult]) -> dict[str, Any]:
        """Mean over the objects of all sequences."""
        return {"scores": mean_row([row for result in results for row in result.details.values()])}


DAVIS = Benchmark("davis", "DAVIS-2017", "J, F and their recall and decay", Davis, DavisScoring, MaskPropagation)
