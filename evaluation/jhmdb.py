"""JHMDB: the joints of a person in a clip's first frame are given, PCK judges those of the other frames.

Layout of the data set, as distributed:
    splits/CLASS_test_split1.txt                        CLIP.avi 2 for the clips of the test set
    Rename_Images/CLASS/CLIP/00001.png, 00002.png, ...
    joint_positions/CLASS/CLIP/joint_positions.mat      pos_img (2, 15, T), one-based pixels

As in the scorer that goes with the T-CoRe paper, the first frame is not scored, lost joints do not count, and the score
is the mean of the PCKs of the 15 joints, each over all frames of all clips. Frames beyond the last annotated one are
left out.
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

from evaluation.command import DataCommand, EvaluationCommand, ScoreCommand, Size
from evaluation.frames import Size as FrameSize
from evaluation.frames import list_pictures, open_frames
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
from evaluation.task import (
    Array,
    Clip,
    SequenceResult,
    Task,
    check_sequence_name,
    chosen_sequences,
    frame_name,
    plain_name,
    read_lines,
)
from pipeline.settings import COUNT_LIMIT, Settings, UserError


class JhmdbScoring(Settings):
    """Constants of PCK."""

    thresholds: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = (0.1, 0.2)
    """Distances, over the person's size, up to which a joint is right; the first one is the score."""
    box_scale: float = Field(default=0.6, gt=0, le=1000)
    """The person's size over the diagonal of the box around the joints."""

    @field_validator("thresholds")
    @classmethod
    def _positive(cls, thresholds: tuple[Annotated[float, Field(gt=0, le=1000)], ...]) -> tuple[float, ...]:
        if not thresholds or min(thresholds) <= 0:
            raise ValueError("must be one or several positive numbers, e.g. 0.1,0.2")
        return thresholds


class JhmdbOptions(DataCommand):
    """What is scored, and how."""

    split: Literal["1", "2", "3", "all"] = "1"
    """Test set of which split (the protocol's is 1), or all clips that are there."""
    scoring: JhmdbScoring = JhmdbScoring()


class JhmdbScoreCommand(ScoreCommand, JhmdbOptions):
    """Score joints of anyone on JHMDB (PCK)."""

    program: ClassVar[str] = "python -m evaluation score jhmdb"


class JhmdbCommand(EvaluationCommand, JhmdbOptions):
    """Score frozen features on JHMDB by label propagation (PCK of 15 joints)."""

    program: ClassVar[str] = "python -m evaluation jhmdb"

    size: Size = (320, 320)
    """Height and width to which frames are stretched for the network, e.g. --size 320,320; multiples of the patch."""
    sigma: float = Field(default=0.5, gt=0, le=1000)
    """Width of a joint's label on the patch grid, cells."""
    top_cells: int = Field(default=5, ge=1, le=COUNT_LIMIT)
    """A joint is the weighted mean of so many cells with its highest labels."""
    propagation: PropagationSettings = PropagationSettings()


@dataclass(frozen=True)
class PoseClip(Clip):
    """A sequence with the joints of one person."""

    annotation: Path
    joints: Points
    """(2, 15, T), zero-based pixels."""
    size: tuple[int, int]
    """Height and width of the frames."""


def read_joints(path: Path) -> Points:
    """Zero-based pixel positions (2, 15, T) of a joint_positions.mat.

    Raises:
        UserError: the file is missing, broken or holds something else.
    """
    try:
        with path.open("rb") as stream:
            joints = np.asarray(scipy.io.loadmat(stream)["pos_img"], float)
    except OSError as error:
        raise UserError(f"cannot read the joints {path}: {error.strerror or error}") from error
    except Exception as error:  # SciPy lets through whatever its parser stumbles over
        raise UserError(f"{path} is no MATLAB file (version 5) with pos_img: {error}") from error
    if joints.ndim != 3 or joints.shape[:2] != (2, len(JOINTS)) or not joints.shape[2]:
        raise UserError(f"pos_img of {path} has the shape {joints.shape}; it must be 2 x {len(JOINTS)} x frames")
    for frame, joint in np.argwhere(~np.isfinite(joints).all(0).T):
        raise UserError(
            f"pos_img of {path} has no finite position for the {JOINTS[joint]} in frame {frame + 1}; "
            "every joint must have one"
        )
    return joints - 1


class Jhmdb(Task[PoseClip]):
    """JHMDB in one folder."""

    name = "jhmdb"
    title = "JHMDB"
    detail = "joint"
    suffix = ".txt"

    def __init__(self, options: JhmdbOptions) -> None:
        self._options = options
        self._network = options if isinstance(options, JhmdbCommand) else None
        self.propagation = options.propagation if isinstance(options, JhmdbCommand) else PropagationSettings()
        self.columns = tuple(f"PCK@{threshold:g}" for threshold in options.scoring.thresholds)

    def names(self) -> list[str]:
        """CLASS/CLIP of the test set of the split, or the clips asked for."""
        options, frames = self._options, self._options.data / "Rename_Images"
        if options.sequences:
            return chosen_sequences(options.sequences, frames)
        if options.split == "all":
            clips = (path for path in frames.glob("[!.]*/[!.]*") if path.is_dir())
            names = sorted(path.relative_to(frames).as_posix() for path in clips)
        else:
            names = [
                f"{path.name.removesuffix(f'_test_split{options.split}.txt')}/{plain_name(row[0].removesuffix('.avi'))}"
                for path in sorted((options.data / "splits").glob(f"[!.]*_test_split{options.split}.txt"))
                for row in map(str.split, read_lines(path))
                if len(row) == 2 and row[1] == "2"
            ]
        if not names:
            place = frames if options.split == "all" else options.data / "splits"
            raise UserError(f"there are no clips of the split {options.split} in {place}; --split all takes every clip")
        return names

    def open(self, name: str) -> PoseClip:
        """Frames and joints; frames must be numbered without a gap, because their number is that of their joints."""
        check_sequence_name(name)
        folder = self._options.data / "Rename_Images" / name
        paths = list_pictures(folder, ".png")
        if not paths:
            raise UserError(f"there are no .png frames in {folder}")
        for number, path in enumerate(paths, start=1):
            if path.stem != f"{number:0{len(path.stem)}d}":
                raise UserError(f"frame {number} is missing in {folder}, where {path.name} stands in its place")
        annotation = self._options.data / "joint_positions" / name / "joint_positions.mat"
        joints = read_joints(annotation)
        if len(paths) < joints.shape[2]:
            raise UserError(f"{folder} has {len(paths)} frames, but {annotation} the joints of {joints.shape[2]}")

        def outside(size: FrameSize) -> int:
            far = np.array(size[::-1])[:, None, None]
            return int(((joints < 0) | (joints > far)).any(0).sum())

        frames, notes = open_frames(paths, outside)
        return PoseClip(name, frames, notes, annotation, joints, frames[0].size)

    def smallest_size(self) -> tuple[int, int]:
        """The one size."""
        assert self._network is not None
        return self._network.size

    def network_size(self, clip: PoseClip) -> tuple[int, int]:
        """The same for all clips."""
        assert self._network is not None
        return self._network.size

    def first_labels(self, clip: PoseClip, grid: tuple[int, int]) -> Tensor:
        """Background and one channel for each joint."""
        assert self._network is not None
        return joints_to_labels(clip.joints[:, :, 0], clip.size, grid, self._network.sigma)

    def predict(self, clip: PoseClip, labels: Tensor) -> Array:
        """(2, 15) zero-based pixels; NaN for lost joints."""
        assert self._network is not None
        joints = labels_to_joints(labels, self._network.top_cells).cpu().double().numpy()
        scale = np.array([clip.size[1] / labels.shape[1], clip.size[0] / labels.shape[0]])
        return np.where(joints < 0, np.nan, joints * scale[:, None])

    def save(self, path: Path, prediction: Array) -> None:
        """A line `x y` for each joint; `nan nan` for lost ones."""
        np.savetxt(path, prediction.T, fmt="%.4f")

    def load(self, path: Path, clip: PoseClip) -> Array:
        """Joints as `save` writes them."""
        try:
            joints = np.loadtxt(path, ndmin=2)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the joints {path}: {error}") from error
        if joints.shape != (len(JOINTS), 2):
            raise UserError(f"{path} must have {len(JOINTS)} lines `x y`, not an array {joints.shape}")
        return joints.T

    def is_scored(self, clip: PoseClip, number: int) -> bool:
        """Every frame with joints but the first."""
        return bool(0 < number < clip.joints.shape[2])

    def compare(self, clip: PoseClip, truth: Array, prediction: Array) -> Array:
        """Normalized distance (15,) of each joint."""
        return normalized_distances(truth, prediction, self._options.scoring.box_scale)

    def result(self, clip: PoseClip, judged: Mapping[int, Any]) -> SequenceResult:
        """PCK of the clip alone."""
        thresholds = self._options.scoring.thresholds
        distances = np.stack(list(judged.values())) if judged else np.empty((0, len(JOINTS)))
        shares = correct_shares(distances, thresholds)
        scores = dict(zip(self.columns, pck(distances, thresholds).tolist(), strict=True))
        lost = [JOINTS[joint] for joint in np.flatnonzero(np.isnan(distances).any(0))]
        over_time = {
            frame_name(clip, number): float((frame[~np.isnan(frame)] <= thresholds[0]).mean())
            for number, frame in judged.items()
            if not np.isnan(frame).all()
        }
        reason = "only the first frame has joints" if not judged else "all joints are lost from the first frame on"
        return SequenceResult(
            status="scored" if over_time else "unscored",
            reason=None if over_time else reason,
            frames=len(clip.frames),
            frames_scored=len(judged),
            scores=scores if over_time else None,
            details={
                JOINTS[joint]: dict(zip(self.columns, shares[:, joint].tolist(), strict=True))
                for joint in np.flatnonzero(np.isfinite(shares).all(0))
            },
            over_time=over_time,
            notes=[f"lost in some frames: {', '.join(lost)}"] if lost and over_time else [],
            counts=distances,
        )

    def summary(self, results: Sequence[SequenceResult]) -> dict[str, Any]:
        """Over the frames of all clips."""
        distances = np.concatenate([result.counts for result in results if result.counts is not None])
        thresholds = self._options.scoring.thresholds
        shares = correct_shares(distances, thresholds)
        return {
            "scores": dict(zip(self.columns, pck(distances, thresholds).tolist(), strict=True)),
            "details": {
                joint: dict(zip(self.columns, shares[:, number].tolist(), strict=True))
                for number, joint in enumerate(JOINTS)
            },
        }

    def protocol(self) -> dict[str, Any]:
        """Split, size, labels, propagation, constants of PCK."""
        include = {"split", "sequences", "size", "sigma", "top_cells", "propagation", "scoring"}
        return self._options.model_dump(mode="json", include=include)

    def annotation_files(self, clip: PoseClip) -> list[Path]:
        """The one file."""
        return [clip.annotation]

    def draw(self, frame: NDArray[np.uint8], prediction: Array) -> NDArray[np.uint8]:
        """Joints and limbs."""
        return draw_joints(frame, prediction)

    def truth(self, clip: PoseClip, number: int) -> Array | None:
        """(2, 15) zero-based pixels."""
        return clip.joints[:, :, number] if number < clip.joints.shape[2] else None
