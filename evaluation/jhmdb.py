"""JHMDB: the joints of a person in a clip's first frame are given, PCK scores those of the other frames.

Layout of the data set, as distributed:
    splits/CLASS_test_split1.txt                        CLIP.avi 2 for the clips of the test set
    Rename_Images/CLASS/CLIP/00001.png, 00002.png, ...
    joint_positions/CLASS/CLIP/joint_positions.mat      pos_img (2, 15, T), one-based pixels

As in the scorer released with the T-CoRe paper, the first frame is not scored, lost joints do not count, and the score
is the mean over the 15 joints of their PCK over all frames of all clips. Frames after the last annotated one are not
scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import scipy.io
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from evaluation.benchmark import (
    Array,
    Benchmark,
    Clip,
    ClipScores,
    Dataset,
    LabelPropagation,
    Scores,
    Scoring,
    SequenceResult,
)
from evaluation.frames import Size, list_pictures, open_frames
from evaluation.jhmdb_scores import (
    JOINTS,
    Points,
    correct_shares,
    joints_to_labels,
    labels_to_joints,
    normalized_distances,
    pck,
)
from evaluation.pictures import draw_joints
from evaluation.propagation import PropagationSettings
from evaluation.sequences import plain_name, read_lines
from pipeline.settings import COUNT_LIMIT, UserError


@dataclass(frozen=True)
class PoseClip(Clip):
    """A sequence with the joints of one person."""

    annotation: Path
    joints: Points
    """(2, 15, T), zero-based pixels."""


def read_joints(path: Path) -> Points:
    """Zero-based pixel positions (2, 15, T) of a joint_positions.mat.

    Raises:
        UserError: the file is missing, broken or has other content.
    """
    try:
        with path.open("rb") as stream:
            joints = np.asarray(scipy.io.loadmat(stream)["pos_img"], float)
    except OSError as error:
        raise UserError(f"cannot read the joints {path}: {error.strerror or error}") from error
    except Exception as error:  # SciPy's parser raises errors of many kinds
        raise UserError(f"{path} is not a MATLAB file (version 5) with pos_img: {error}") from error
    if joints.ndim != 3 or joints.shape[:2] != (2, len(JOINTS)) or not joints.shape[2]:
        raise UserError(f"pos_img of {path} has the shape {joints.shape}; it must be 2 x {len(JOINTS)} x frames")
    for frame, joint in np.argwhere(~np.isfinite(joints).all(0).T):
        raise UserError(
            f"pos_img of {path} has no finite position for the {JOINTS[joint]} in frame {frame + 1}; "
            "every joint must have one"
        )
    return joints - 1


def load_points(path: Path, count: int) -> Points:
    """The positions (2, count) in a file of `save_points`.

    Raises:
        UserError: the file is missing, broken or has another number of points.
    """
    try:
        points = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the points {path}: {error}") from error
    if points.shape != (count, 2):
        raise UserError(f"{path} must have {count} lines `x y`, not an array {points.shape}")
    return points.T


def save_points(path: Path, points: Points) -> None:
    """Write a line `x y` for each of the points (2, N), pixels; `nan nan` for those that have no position."""
    np.savetxt(path, points.T, fmt="%.4f")


class Jhmdb(Dataset[PoseClip]):
    """JHMDB in one folder."""

    suffix: ClassVar[str] = ".txt"

    split: Literal["1", "2", "3", "all"] = "1"
    """Which split's test set to evaluate (1 in the protocol), or all clips in the folder."""

    @property
    def frame_root(self) -> Path:
        """Rename_Images, with a folder for each class."""
        return self.data / "Rename_Images"

    def listed(self) -> list[str]:
        """CLASS/CLIP of the test set of the split."""
        if self.split == "all":
            clips = (path for path in self.frame_root.glob("[!.]*/[!.]*") if path.is_dir())
            names = sorted(path.relative_to(self.frame_root).as_posix() for path in clips)
        else:
            names = [
                f"{path.name.removesuffix(f'_test_split{self.split}.txt')}/{plain_name(row[0].removesuffix('.avi'))}"
                for path in sorted((self.data / "splits").glob(f"[!.]*_test_split{self.split}.txt"))
                for row in map(str.split, read_lines(path))
                if len(row) == 2 and row[1] == "2"
            ]
        if not names:
            folder = self.frame_root if self.split == "all" else self.data / "splits"
            raise UserError(f"there are no clips of the split {self.split} in {folder}; --split all takes every clip")
        return names

    def open(self, name: str) -> PoseClip:
        """Find frames and joints; frames must be numbered without gaps, because joints are assigned by number."""
        folder = self.frame_root / name
        paths = list_pictures(folder, ".png")
        if not paths:
            raise UserError(f"there are no .png frames in {folder}")
        for number, path in enumerate(paths, start=1):
            if path.stem != f"{number:0{len(path.stem)}d}":
                raise UserError(f"frame {number} is missing in {folder}: {path.name} follows frame {number - 1}")
        annotation = self.data / "joint_positions" / name / "joint_positions.mat"
        joints = read_joints(annotation)
        if len(paths) < joints.shape[2]:
            raise UserError(f"{folder} has {len(paths)} frames, but {annotation} the joints of {joints.shape[2]}")

        def outside(size: Size) -> int:
            far = np.array(size[::-1])[:, None, None]
            return int(((joints < 0) | (joints > far)).any(0).sum())

        frames, notes = open_frames(paths, outside)
        return PoseClip(name, frames, notes, range(joints.shape[2]), annotation, joints)

    def truth(self, clip: PoseClip, index: int) -> Array:
        """(2, 15) zero-based pixels."""
        return clip.joints[:, :, index]

    def annotation_files(self, clip: PoseClip) -> list[Path]:
        """The one file."""
        return [clip.annotation]

    def load(self, path: Path, clip: PoseClip) -> Array:
        """Joints as `save` writes them."""
        return load_points(path, len(JOINTS))

    def save(self, path: Path, prediction: Array) -> None:
        """Write a line `x y` for each joint; `nan nan` for lost ones."""
        save_points(path, prediction)

    def draw(self, frame: NDArray[np.uint8], labels: Array) -> NDArray[np.uint8]:
        """Joints and limbs."""
        return draw_joints(frame, labels)


class JhmdbScoring(Scoring[PoseClip]):
    """PCK: the share of joints within a distance of their true position."""

    detail: ClassVar[str] = "joint"
    unscored: ClassVar[str] = "only the first frame has joints"

    thresholds: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = (0.1, 0.2)
    """Distances, over the person's size, up to which a joint is correct; the first one is the main score."""
    box_scale: float = Field(default=0.6, gt=0, le=1000)
    """The person's size over the diagonal of the box around the joints."""

    @field_validator("thresholds")
    @classmethod
    def _positive(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if not thresholds or min(thresholds) <= 0:
            raise ValueError("must be one or several positive numbers, e.g. 0.1,0.2")
        return thresholds

    @property
    def columns(self) -> tuple[str, ...]:
        """PCK at each threshold."""
        return tuple(f"PCK@{threshold:g}" for threshold in self.thresholds)

    def _named(self, values: NDArray[np.float64]) -> Scores:
        return dict(zip(self.columns, values.tolist(), strict=True))

    def compare(self, clip: PoseClip, truth: Array, prediction: Array) -> Array:
        """Normalized distance (15,) of each joint."""
        return normalized_distances(truth, prediction, self.box_scale)

    def result(self, clip: PoseClip, compared: Mapping[int, Any]) -> ClipScores:
        """PCK of the clip alone."""
        distances = np.stack(list(compared.values()))
        shares = correct_shares(distances, self.thresholds)
        over_time = {
            index: float((frame[~np.isnan(frame)] <= self.thresholds[0]).mean())
            for index, frame in compared.items()
            if not np.isnan(frame).all()
        }
        if not over_time:
            return ClipScores(None, {}, {}, reason="all joints are lost from the first frame on")
        lost = [JOINTS[joint] for joint in np.flatnonzero(np.isnan(distances).any(0))]
        return ClipScores(
            scores=self._named(pck(distances, self.thresholds)),
            details={JOINTS[joint]: self._named(shares[:, joint]) for joint in np.flatnonzero(np.isfinite(shares[0]))},
            over_time=over_time,
            notes=[f"lost in some frames: {', '.join(lost)}"] if lost else [],
            counts=distances,
        )

    def summary(self, results: Sequence[SequenceResult]) -> dict[str, Any]:
        """Over the frames of all clips."""
        distances = np.concatenate([result.counts for result in results if result.counts is not None])
        shares = correct_shares(distances, self.thresholds)
        return {
            "scores": self._named(pck(distances, self.thresholds)),
            "details": {joint: self._named(shares[:, index]) for index, joint in enumerate(JOINTS)},
        }


class JointPropagation(LabelPropagation[PoseClip]):
    """Background and one channel of soft labels for each joint, at one network size for all clips."""

    size: Size = (320, 320)
    """Height and width to which frames are stretched for the network, e.g. --size 320,320; multiples of the patch."""
    sigma: float = Field(default=0.5, gt=0, le=1000)
    """Standard deviation of a joint's label on the patch grid, cells."""
    top_cells: int = Field(default=5, ge=1, le=COUNT_LIMIT)
    """A joint is the weighted mean of this many cells with its highest labels."""
    propagation: PropagationSettings = PropagationSettings()

    def smallest_size(self) -> Size:
        """The one size."""
        return self.size

    def network_size(self, clip: PoseClip) -> Size:
        """The one size."""
        return self.size

    def first_labels(self, clip: PoseClip, grid: Size) -> Tensor:
        """Background and one channel for each joint."""
        return joints_to_labels(clip.joints[:, :, 0], clip.frames[0].size, grid, self.sigma)

    def predict(self, clip: PoseClip, labels: Tensor) -> Array:
        """(2, 15) zero-based pixels; NaN for lost joints."""
        joints = labels_to_joints(labels, self.top_cells).cpu().double().numpy()
        height, width = clip.frames[0].size
        scale = np.array([width / labels.shape[1], height / labels.shape[0]])
        return np.where(joints < 0, np.nan, joints * scale[:, None])


JHMDB = Benchmark("jhmdb", "JHMDB", "PCK of 15 joints", Jhmdb, JhmdbScoring, JointPropagation)
